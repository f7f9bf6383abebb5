"""The files of monitors, as the programs that read them judge them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from enova.stack.render import alertmanager, monitors, prometheus
from enova.stack.render.monitors import MonitorPlaces
from enova.stack.resources import MonitorResource
from enova.stack.watched import LatencyGoal, Limit, Watched, WatchedService
from tests.parts import real

LIMIT = Limit("ttft", 0.5, (0.5, 1.0))
SERVICE = WatchedService(
    name="chat",
    engine="vllm",
    engine_version="0.32.0",
    success_rate=0.999,
    goals=(LatencyGoal("ttft_p95", LIMIT, 0.95, 0.1, 0.2),),
    attainment=0.9,
    all_limits=(LIMIT,),
    predicted_at_rate=2.0,
    usd_per_replica_hour=3.0,
)
WATCHED = Watched((SERVICE,), scrape_interval_s=5.0, reconcile_interval_s=5.0)
PROMETHEUS = MonitorResource(
    "prometheus", settings=(("retention", 3600.0), ("scrape_interval", 5.0)), watched=WATCHED
)


def places(folder: Path, **secrets: str) -> MonitorPlaces:
    return MonitorPlaces(
        stack="demo",
        config=str(folder),
        data=str(folder / "data"),
        targets=str(folder / "targets"),
        listen="127.0.0.1:1",
        secrets=secrets,
    )


def written(folder: Path, resource: MonitorResource, **secrets: str) -> None:
    for name, text in monitors.files(resource, places(folder, **secrets)).items():
        (folder / name).write_text(text)


def others(value: Any) -> Iterator[Any]:
    """``value`` with one thing in it changed, for each thing in it."""
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            for other in others(getattr(value, field.name)):
                yield replace(value, **{field.name: other})
    elif isinstance(value, tuple):
        for index, inner in enumerate(value):
            for other in others(inner):
                yield (*value[:index], other, *value[index + 1 :])
        yield value[:-1]
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, str):
        yield f"{value}x"
    else:
        assert value is not None, "state it above, so that it can change"
        yield value + 0.25


def test_whatever_is_watched_is_part_of_what_prometheus_is() -> None:
    seen = [replace(PROMETHEUS, watched=other) for other in others(WATCHED)]
    assert len(seen) > 20
    assert len({one.digest for one in (PROMETHEUS, *seen)}) == len(seen) + 1
    assert all(
        one.in_place(set(dict(one.fields())) ^ set(dict(PROMETHEUS.fields()))) for one in seen
    )


@pytest.mark.real
def test_promtool_finds_configuration_and_rules_good(tmp_path: Path, promtool_binary: Path) -> None:
    (tmp_path / "targets").mkdir()
    for job in prometheus.JOBS:
        (tmp_path / "targets" / f"{job}.json").write_text("[]")
    written(tmp_path, PROMETHEUS)
    done = subprocess.run(
        [promtool_binary, "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 rule files found" in done.stdout
    assert "WARNING" not in done.stdout + done.stderr


def test_alerts_go_to_the_alertmanager_of_the_stack(tmp_path: Path) -> None:
    text = monitors.files(PROMETHEUS, places(tmp_path))["prometheus.yml"]
    (found,) = json.loads(text)["alerting"]["alertmanagers"]
    assert found["file_sd_configs"][0]["files"] == [f"{tmp_path}/targets/alertmanager.json"]


@pytest.mark.real
@pytest.mark.parametrize("webhook", [None, "https://alerts.example/hook"])
def test_amtool_finds_the_configuration_good(tmp_path: Path, webhook: str | None) -> None:
    secrets = {"webhook": webhook} if webhook else {}
    written(tmp_path, MonitorResource("alertmanager"), **secrets)
    done = subprocess.run(
        [real.part_binary("amtool"), "check-config", tmp_path / "alertmanager.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 receivers" in done.stdout


@pytest.mark.real
@pytest.mark.parametrize("severity", ["page", "ticket"])
def test_every_alert_reaches_the_receiver(tmp_path: Path, severity: str) -> None:
    written(tmp_path, MonitorResource("alertmanager"))
    config = f"--config.file={tmp_path / 'alertmanager.yml'}"
    done = subprocess.run(
        [real.part_binary("amtool"), "config", "routes", "test", config, f"severity={severity}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [alertmanager.RECEIVER]
