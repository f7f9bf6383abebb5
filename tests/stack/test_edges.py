"""Goals as edges of engines' histograms: exact where an engine can be told, never a restart."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from enova.base import address as addresses
from enova.capacity.catalog import engines
from enova.capacity.perf.point import Figure
from enova.capacity.sim.report import Goal
from enova.services.emulator.arguments import parse
from enova.services.emulator.meter import BUCKET_FAMILIES, HISTOGRAMS, Meter
from enova.spec.load import load_document
from enova.stack import desired, edges
from enova.stack.owners import ADOPTED_ARGS
from enova.stack.plan import Ask, Plan
from enova.stack.watched import watched
from tests.stack.worlds import asked, planned, recorded, running, world

NEW = engines.facts("vllm", "0.32.0")
OLD = engines.facts("vllm", "0.11.0")
FLAG = "custom-histogram-buckets"
TTFT = Goal("ttft", 95, 0.4)


def with_goals(ask: Ask, goals: dict[str, object], **engine: object) -> Ask:
    """The same with goals, and perhaps engine arguments, for ``chat``."""
    document = json.loads(json.dumps(ask.document))
    document["services"]["chat"]["goals"] = goals
    if engine:
        document["services"]["chat"]["engine"] = {"name": "emulator", "args": engine}
    return replace(ask, spec=load_document(document), document=document)


def moved(before: Ask, after: Ask, *slots: int) -> Plan:
    """The plan from the one to the other, with replicas of the first in those slots."""
    there = world(before, *running(before, *slots))
    return planned(after, there, record=recorded(before), before=before)


def template_args(ask: Ask) -> dict[str, object]:
    return dict(
        desired.build(ask.spec, ask.choices, monitors={"prometheus"}).services[0].template.args
    )


def test_the_limit_becomes_an_edge_beside_the_default_ones() -> None:
    found = json.loads(edges.arguments(NEW, [TTFT, Goal("itl", 95, 0.03)])[FLAG])
    assert sorted(found) == ["inter_token_latency", "time_to_first_token"]
    assert set(found["time_to_first_token"]) == {*NEW.buckets["time_to_first_token"], 0.4}
    assert found["time_to_first_token"] == sorted(found["time_to_first_token"])


def test_nothing_is_said_where_each_limit_is_an_edge_already() -> None:
    assert edges.arguments(NEW, [Goal("ttft", 95, 0.5), Goal("e2e", 50, 2.0)]) == {}
    assert edges.arguments(NEW, []) == {}


def test_an_engine_without_the_flag_counts_at_the_next_edge_and_a_note_says_so() -> None:
    assert edges.arguments(OLD, [TTFT]) == {}
    assert edges.counted_at(OLD, "ttft", 0.4, own={}) == 0.5
    assert edges.counted_at(OLD, "e2e", 9000.0, own={}) is None
    (note,) = edges.notes("chat", OLD, [TTFT, Goal("ttft", 50, 0.25)])
    assert "0.4 s are counted at 0.5 s" in note
    assert edges.notes("chat", NEW, [TTFT]) == ()


def test_the_emulator_takes_what_is_rendered_and_counts_there() -> None:
    facts = engines.facts("emulator")
    words = [f"--{flag}={text}" for flag, text in edges.arguments(facts, [TTFT]).items()]
    config = parse(["m", *words])
    meter = Meter(model_name="m", max_model_len=1024, buckets=config.buckets)
    meter.histograms["time_to_first_token_seconds"].observe(0.4)
    counts = dict(meter.histograms["time_to_first_token_seconds"].cumulative())
    assert counts["0.4"] == 1
    assert counts["0.25"] == 0


def test_the_catalog_and_the_emulator_know_the_same_default_edges() -> None:
    facts = engines.facts("emulator")
    assert facts.buckets == {family: BUCKET_FAMILIES[family] for family in facts.buckets}
    for metric, family in facts.bucket_families.items():
        assert HISTOGRAMS[facts.metrics[metric].removeprefix("vllm:")][0] == family


@pytest.mark.vllm
def test_the_catalog_knows_the_default_edges_of_the_real_engine(vllm_binary: Path) -> None:
    script = (
        "import json; from vllm.v1.metrics import buckets as b; "
        "print(json.dumps({k: b.histogram_buckets(k, 8) for k in sorted(b.BUCKET_FAMILY_KEYS)}))"
    )
    done = subprocess.run(
        [vllm_binary.with_name("python"), "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    real = json.loads(done.stdout.splitlines()[-1])
    assert sorted(real) == sorted(BUCKET_FAMILIES)
    for family, known in NEW.buckets.items():
        assert tuple(real[family]) == known


def test_another_goal_changes_settings_and_nothing_that_runs() -> None:
    before = with_goals(asked(), {"ttft": "400ms"})
    after = with_goals(asked(), {"ttft": "300ms"})
    assert template_args(before)[FLAG] != template_args(after)[FLAG]
    made = moved(before, after, 0, 1)
    # Prometheus is told what to count from now on, while it runs; no engine is touched.
    assert {action.address for action in made.actions} <= {addresses.PROMETHEUS}
    (change,) = (change for change in made.changes if change.address == "chat")
    assert [field.path for field in change.fields] == ["goals.ttft.p95"]


def test_a_replica_started_later_has_the_new_edge() -> None:
    before = with_goals(asked(), {"ttft": "400ms"})
    after = with_goals(asked(), {"ttft": "300ms"})
    made = moved(before, after, 0)
    (start,) = (action.do for action in made.actions if hasattr(action.do, "template"))
    assert "0.3" in str(dict(start.template.args)[FLAG])


def test_edges_the_spec_states_itself_are_part_of_the_replica() -> None:
    own = '{"time_to_first_token":[0.4,1]}'
    before, after = asked(), with_goals(asked(), {"ttft": "400ms"}, **{FLAG: own})
    assert template_args(after)[FLAG] == own
    made = moved(before, after, 0, 1)
    assert f"args.{FLAG}" in {field.path for change in made.changes for field in change.fields}
    assert made.actions


def test_a_limit_is_counted_at_its_edge_and_elsewhere_at_the_next() -> None:
    def edges_of(ask: Ask) -> tuple[float, ...]:
        found = watched(ask.spec, ask.choices, reconcile_interval_s=5.0, gpus=False)
        return found.services[0].goals[0].limit.edges

    assert edges_of(with_goals(asked(), {"ttft": "400ms"})) == (0.4, 0.5)
    assert edges_of(with_goals(asked(), {"ttft": "500ms"})) == (0.5,)
    own = {FLAG: '{"time_to_first_token":[0.45,1]}'}
    assert edges_of(with_goals(asked(), {"ttft": "400ms"}, **own)) == (0.45,)


def test_watched_takes_goals_apart() -> None:
    goals = {"ttft": {"p50": "200ms", "p99": "1s"}, "itl": "50ms", "attainment": "90%"}
    ask = with_goals(asked(), goals)
    (chat,) = watched(ask.spec, ask.choices, reconcile_interval_s=None, gpus=False).services
    assert [goal.name for goal in chat.goals] == ["itl_p95", "ttft_p50", "ttft_p99"]
    assert [goal.target for goal in chat.goals] == [0.95, 0.5, 0.99]
    assert chat.attainment == 0.9
    assert [(limit.metric, limit.limit_s) for limit in chat.all_limits] == [
        ("tpot", 0.05),
        ("ttft", 1.0),
    ]


def test_a_prediction_is_wrong_only_where_the_histogram_can_tell() -> None:
    ask = with_goals(asked(), {"ttft": "400ms"})
    choice = ask.choices["chat"]
    told = replace(choice.prediction, latencies={"ttft_p95": Figure(0.11, 0.1, 0.13)})
    ask = replace(ask, choices={"chat": replace(choice, prediction=told)})
    (chat,) = watched(ask.spec, ask.choices, reconcile_interval_s=5.0, gpus=False).services
    assert (chat.goals[0].predicted_s, chat.goals[0].at_most_s) == (0.11, 0.25)


MEASURING = (edges.FLAG, "traces_endpoint")


def test_only_measuring_is_adopted() -> None:
    flags = {engines.facts(name).flags.get(f) for name in ("vllm", "emulator") for f in MEASURING}
    assert flags - {None} == ADOPTED_ARGS
