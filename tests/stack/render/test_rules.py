"""Recording rules and alerts as promtool reads and evaluates them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from enova.policy.signals import MEANINGS
from enova.stack import recording
from enova.stack.render import rules
from enova.stack.watched import Watched
from tests.stack.render.rule_cases import CHAT, FIRES, OLD, STAYS_QUIET, WATCHED, Case

DOCS = Path(__file__).parents[3] / "docs" / "alerts.md"
NAMES = sorted(alert.name for alert in rules.alerts(WATCHED))


def write_rules(folder: Path, watched: Watched) -> Path:
    path = folder / "rules.yml"
    path.write_text(json.dumps(rules.rules(watched)))
    return path


def promtool(binary: Path, *words: str | Path) -> None:
    done = subprocess.run(
        [binary, *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def expected(case: Case, alert: str) -> list[dict[str, dict[str, str]]]:
    return [
        {
            "exp_labels": labels,
            "exp_annotations": {
                "summary": summary,
                "description": description,
                "runbook": f"docs/alerts.md#{alert.lower()}",
            },
        }
        for labels, summary, description in case.says
    ]


def check(binary: Path, folder: Path, alert: str, case: Case) -> None:
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    asked = {"eval_time": case.at, "alertname": alert, "exp_alerts": expected(case, alert)}
    path = folder / "test.yml"
    path.write_text(
        json.dumps(
            {
                "rule_files": [str(write_rules(folder, case.watched))],
                "evaluation_interval": case.step,
                "group_eval_order": [f"enova-{name}" for name in ("signals", "goals", "alerts")],
                "tests": [
                    {"interval": case.step, "input_series": series, "alert_rule_test": [asked]}
                ],
            }
        )
    )
    promtool(binary, "test", "rules", path)


@pytest.mark.real
@pytest.mark.parametrize(
    ("alert", "case"),
    [(alert, case) for alert, cases in FIRES.items() for case in cases],
    ids=lambda value: value.what if isinstance(value, Case) else value,
)
def test_it_fires(promtool_binary: Path, tmp_path: Path, alert: str, case: Case) -> None:
    assert case.says
    check(promtool_binary, tmp_path, alert, case)


@pytest.mark.real
@pytest.mark.parametrize(
    ("alert", "case"),
    [(alert, case) for alert, cases in STAYS_QUIET.items() for case in cases],
    ids=lambda value: value.what if isinstance(value, Case) else value,
)
def test_it_stays_quiet(promtool_binary: Path, tmp_path: Path, alert: str, case: Case) -> None:
    assert not case.says
    check(promtool_binary, tmp_path, alert, case)


def test_every_alert_has_a_case_of_both_kinds() -> None:
    assert sorted(FIRES) == NAMES
    assert sorted(STAYS_QUIET) == NAMES


def test_every_alert_has_a_section_with_what_to_look_at_and_what_to_do() -> None:
    sections = DOCS.read_text().split("\n## ")[1:]
    found = {text.partition("\n")[0]: text for text in sections}
    assert [name for name in NAMES if name not in found] == []
    assert [
        name
        for name in NAMES
        for word in ("**Means.**", "**Look at.**", "**Do.**")
        if word not in found[name]
    ] == []


@pytest.mark.real
@pytest.mark.parametrize(
    "watched",
    [
        WATCHED,
        OLD,
        Watched((), scrape_interval_s=0.5),
        Watched((*OLD.services, *WATCHED.services), scrape_interval_s=90.0),
    ],
    ids=["all", "old engine", "no service", "mixed"],
)
def test_promtool_finds_the_rules_good(
    promtool_binary: Path, tmp_path: Path, watched: Watched
) -> None:
    promtool(promtool_binary, "check", "rules", write_rules(tmp_path, watched))


def test_every_signal_is_a_series_and_each_series_belongs_to_one() -> None:
    names = {one.name for one in (*recording.now(WATCHED), *recording.goals(WATCHED))}
    assert {recording.series(signal) for signal in MEANINGS} <= names


def test_no_series_is_recorded_twice() -> None:
    found = [*recording.now(WATCHED), *recording.goals(WATCHED)]
    keys = [(one.name, tuple(sorted(one.labels.items()))) for one in found]
    assert len(keys) == len(set(keys))


def test_old_names_for_old_engines() -> None:
    text = json.dumps(rules.rules(OLD))
    assert "vllm:gpu_cache_usage_perc" in text
    assert "vllm:time_per_output_token_seconds_bucket" in text
    assert "vllm:kv_cache_usage_perc" not in text


def test_no_alert_asks_for_more_than_all_requests() -> None:
    assert 0 < rules.MOST_MISSES < 1
    for burn in rules.BURNS:
        (alert,) = (a for a in rules.alerts(WATCHED) if a.name == burn.name)
        assert f"clamp_max({burn.times:g} * {recording.series('goal_budget')}" in alert.expr


def test_the_same_value_gives_the_same_document() -> None:
    assert json.dumps(rules.rules(WATCHED)) == json.dumps(rules.rules(WATCHED))
    assert CHAT in WATCHED.services
