"""Which monitors run, and what a plan does about one that differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from enova.spec.load import load_document
from enova.stack import desired, monitoring
from enova.stack.actions import ChangeMonitor, StartMonitor, StopMonitor
from enova.stack.document import plan_from_json, plan_to_json
from enova.stack.observed import Component, Observed, State
from enova.stack.plan import Ask, Inputs, Plan, plan
from enova.stack.record import Record
from enova.stack.render import monitors
from enova.stack.resources import MonitorResource, Stack
from tests.property.worlds import pool
from tests.stack.worlds import asked, recorded, running, world

ALL = frozenset(monitoring.KEYS)
TWO = frozenset({"prometheus", "alertmanager"})


def ask(section: Mapping[str, object] | None = None, *, target: str = "process") -> Ask:
    """``asked`` with another section ``monitoring``."""
    base = asked()
    document = {**base.document, "monitoring": section or {}}
    given = base.document.get("pool")
    document["pool"] = {**(given if isinstance(given, Mapping) else {}), "target": target}
    return Ask(load_document(document), document, base.choices)


def build(of: Ask, runs: frozenset[str] = ALL) -> Stack:
    return desired.build(of.spec, of.choices, monitors=runs)


def names(stack: Stack) -> list[str]:
    return [one.name for one in stack.monitors]


def seen(of: Ask, runs: frozenset[str] = ALL) -> Observed:
    """Everything that ``of`` asks for, running."""
    observed = world(of, *running(of, 0, 1))
    stack = build(of, runs)
    gateway = stack.gateway
    assert gateway is not None
    parts = [("gateway", gateway), *((one.address, one) for one in stack.monitors)]
    return replace(
        observed,
        components=tuple(
            Component(f"{a}-old".replace("/", "-"), a, r.digest, r.fields(), State.SERVING)
            for a, r in parts
        ),
    )


def planned(
    of: Ask | None, before: Ask | None, observed: Observed, runs: frozenset[str] = ALL
) -> Plan:
    return plan(
        Inputs(
            stack="world",
            env="",
            ask=of,
            record=recorded(before) if before else Record("world"),
            recorded=before,
            observed=observed,
            inventory=pool(8),
            monitors=runs,
        )
    )


def test_auto_is_what_the_target_can_and_off_is_off() -> None:
    assert names(build(ask(), TWO)) == ["alertmanager", "prometheus"]
    assert names(build(ask(), frozenset())) == []
    off = ask({"grafana": False, "node": {"enabled": "off"}, "tempo": "on"})
    assert names(build(off)) == [
        "alertmanager",
        "otel-collector",
        "prometheus",
        "tempo",
    ]
    assert monitoring.missing(off.spec, runs=TWO) == ("tempo",)
    assert monitoring.left_out(off.spec, runs=TWO) == ("dcgm-exporter", "otel-collector")


def test_dcgm_is_left_out_where_there_is_no_gpu_unless_it_must_run() -> None:
    emulated = asked()
    real = {
        name: replace(choice, engine="vllm", engine_version="0.32.0")
        for name, choice in emulated.choices.items()
    }
    assert "dcgm-exporter" not in names(build(ask()))
    assert "dcgm-exporter" in names(build(replace(ask(), choices=real)))
    assert "dcgm-exporter" in names(build(ask({"dcgm": "on"})))


def test_an_image_the_spec_names_is_run_where_images_run() -> None:
    own = {"grafana": {"image": "mirror.example/grafana:11"}}
    assert names(build(ask(own, target="compose"), TWO)) == [
        "alertmanager",
        "grafana",
        "prometheus",
    ]
    assert names(build(ask(own), TWO)) == ["alertmanager", "prometheus"]


@pytest.mark.parametrize(
    ("section", "target", "ports"),
    [
        ({}, "process", (None, None)),
        ({}, "compose", (32826, 32827)),
        ({"port": 9090, "grafana": {"port": 3000}}, "compose", (9090, 3000)),
        ({"prometheus": {"port": 9091}}, "process", (9091, None)),
    ],
)
def test_ports(
    section: Mapping[str, object], target: str, ports: tuple[int | None, int | None]
) -> None:
    stack = build(ask(section, target=target))
    found = (stack.monitor("prometheus"), stack.monitor("grafana"))
    assert tuple(one.port for one in found if one is not None) == ports


def test_nothing_differs() -> None:
    of = ask()
    assert planned(of, of, seen(of)).is_empty


def test_another_goal_is_told_to_prometheus_while_it_runs() -> None:
    before = ask()
    document = json.loads(json.dumps(before.document))
    document["services"]["chat"]["goals"] = {"ttft": "1s"}
    after = Ask(load_document(document), document, before.choices)
    made = planned(after, before, seen(before))
    assert [(c.address, c.symbol.value, c.reason.value) for c in made.changes] == [
        ("chat", "~", "spec changed"),
        ("monitoring/prometheus", "~", "spec changed"),
    ]
    (action,) = made.actions
    assert isinstance(action.do, ChangeMonitor)
    assert action.do.component == "monitoring-prometheus-old"
    was = build(before).monitor("prometheus")
    assert was is not None
    assert action.expects == was.digest
    paths = {field.path for field in made.changes[1].fields}
    assert "watched.chat.goals.ttft_p95.limit.limit_s" in paths


@pytest.mark.parametrize(
    "section",
    [
        {"port": 9090},
        {"retention": "1d"},
        {"prometheus": {"host": "0.0.0.0"}},
        {"prometheus": {"image": "prom/prometheus:v3.5.0"}},
    ],
)
def test_what_a_running_one_cannot_take_over_replaces_it(section: Mapping[str, object]) -> None:
    before, after = ask(), ask(section)
    made = planned(after, before, seen(before, TWO), TWO)
    assert [(c.address, c.symbol.value) for c in made.changes] == [("monitoring/prometheus", "∓")]
    stop, start = made.actions
    assert isinstance(stop.do, StopMonitor)
    assert isinstance(start.do, StartMonitor)
    assert start.after == (stop.id,), "both would write one database"
    assert start.undo == (StopMonitor(start.do.component),)


def test_another_receiver_is_told_while_it_runs() -> None:
    before, after = ask(), ask({"alertmanager": {"webhook": {"env": "ALERTS_URL"}}})
    (action,) = planned(after, before, seen(before)).actions
    assert isinstance(action.do, ChangeMonitor)
    assert dict(action.do.monitor.fields())["secrets.webhook"] == "environment variable ALERTS_URL"


def test_one_that_is_switched_off_is_stopped_and_nothing_else() -> None:
    before, after = ask(), ask({"node": "off"})
    made = planned(after, before, seen(before))
    (action,) = made.actions
    assert action.do == StopMonitor("monitoring-node-exporter-old")


def test_one_that_died_is_started_again() -> None:
    of = ask()
    observed = seen(of, TWO)
    dead = tuple(
        replace(c, state=State.EXITED) if c.address == "monitoring/alertmanager" else c
        for c in observed.components
    )
    made = planned(of, of, replace(observed, components=dead), TWO)
    assert [(c.address, c.reason.value) for c in made.changes] == [
        ("monitoring/alertmanager", "failed before")
    ]
    assert [action.do.kind for action in made.actions] == ["stop-monitor", "start-monitor"]


def test_destroying_stops_every_one_after_the_replicas() -> None:
    of = ask()
    made = planned(None, of, seen(of))
    stops = [a for a in made.actions if isinstance(a.do, StopMonitor)]
    assert len(stops) == len(build(of).monitors) > 5
    replicas = {a.id for a in made.actions if a.do.kind == "stop-replica"}
    assert all(replicas <= set(a.after) for a in stops)


def test_a_prometheus_of_before_there_were_others_is_found_and_replaced() -> None:
    """It was started from a resource of three fields."""
    of = ask()
    observed = seen(of, TWO)
    fields = (("retention", 172800.0), ("scrape_interval", 5.0))
    old = tuple(
        replace(c, digest="0123456789abcdef", fields=fields)
        for c in observed.components
        if c.address == "monitoring/prometheus"
    )
    gateway = tuple(c for c in observed.components if c.address == "gateway")
    made = planned(of, of, replace(observed, components=(*gateway, *old)), TWO)
    assert [(c.address, c.symbol.value) for c in made.changes] == [
        ("monitoring/alertmanager", "+"),
        ("monitoring/prometheus", "∓"),
    ]


def test_a_plan_of_the_first_format_is_read_as_what_it_means() -> None:
    made = planned(asked(), None, Observed(), frozenset({"prometheus"}))
    data = json.loads(plan_to_json(made))
    data["schema"] = 1
    for action in data["actions"]:
        if action["do"]["kind"] == "start-monitor":
            del action["do"]["monitor"]
            action["do"]["kind"] = "start-prometheus"
            action["do"]["prometheus"] = {
                "port": 9090,
                "scrape_interval_s": 5.0,
                "retention_s": 172800.0,
            }
            for undo in action["undo"]:
                undo["kind"] = "stop-prometheus"
    again = plan_from_json(json.dumps(data))
    assert again.schema == made.schema
    (start,) = [a for a in again.actions if isinstance(a.do, StartMonitor)]
    assert isinstance(start.do, StartMonitor)
    assert start.do.monitor == MonitorResource(
        "prometheus", port=9090, settings=(("retention", 172800.0), ("scrape_interval", 5.0))
    )
    assert start.undo == (StopMonitor(start.do.component),)


def test_every_monitor_has_files_whose_names_stay_below_its_folder() -> None:
    stack = build(ask({"alertmanager": {"webhook": {"env": "X"}}}, target="compose"))
    for one in stack.monitors:
        places = monitors.MonitorPlaces(
            stack="world",
            config="/config",
            data="/data",
            targets="/targets",
            listen="0.0.0.0:1",
            peers={name: f"{name}:2" for name in one.peers},
            secrets={"webhook": "http://127.0.0.1:3/"},
        )
        texts = monitors.files(one, places)
        assert texts == monitors.files(one, places)
        assert not any(name.startswith("/") or ".." in name for name in texts)
        assert bool(texts) is (one.name != "node-exporter")
        assert one.name in monitors.PROGRAMS


def test_another_prediction_is_the_choice_s_doing() -> None:
    of = ask()
    choice = of.choices["chat"]
    dearer = replace(choice, usd_per_hour=(choice.usd_per_hour or 0.0) + 1.0)
    after = replace(of, choices={**of.choices, "chat": dearer})
    made = planned(after, of, seen(of, TWO), TWO)
    told = [c for c in made.changes if c.address == "monitoring/prometheus"]
    assert [(c.symbol.value, c.reason.value) for c in told] == [("~", "choice changed")]
