"""Prometheus' files as data, and as promtool sees them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from enova.stack.render import prometheus

A = prometheus.Target("127.0.0.1:20001", "chat-replica-0-a", "chat/replica/0", "chat")
GATEWAY = prometheus.Target("127.0.0.1:20009", "gateway-a", "gateway")


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.0, "5s"), (0.5, "500ms"), (0.0001, "1ms"), (172800.0, "172800s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert prometheus.duration(seconds) == text


def test_targets_carry_the_words_used_everywhere() -> None:
    assert prometheus.targets("demo", [GATEWAY, A]) == [
        {
            "targets": ["127.0.0.1:20001"],
            "labels": {
                "stack": "demo",
                "instance": "chat-replica-0-a",
                "address": "chat/replica/0",
                "service": "chat",
            },
        },
        {
            "targets": ["127.0.0.1:20009"],
            "labels": {"stack": "demo", "instance": "gateway-a", "address": "gateway"},
        },
    ]


def test_a_scrape_never_takes_longer_than_its_interval() -> None:
    data = prometheus.config(stack="demo", scrape_interval_s=0.5, targets_dir="/run/targets")
    assert data["global"] == {
        "scrape_interval": "500ms",
        "scrape_timeout": "500ms",
        "evaluation_interval": "500ms",
        "external_labels": {"stack": "demo"},
    }


def test_it_listens_where_it_is_told_and_cannot_be_administered() -> None:
    words = prometheus.command(
        "prometheus", config_path="c.yml", data_dir="d", listen="127.0.0.1:1", retention_s=7200.0
    )
    assert "--web.listen-address=127.0.0.1:1" in words
    assert not [word for word in words if "admin" in word or "lifecycle" in word]


@pytest.mark.real
def test_promtool_finds_the_files_good(tmp_path: Path, promtool_binary: Path) -> None:
    targets = tmp_path / "targets"
    targets.mkdir()
    for job in prometheus.JOBS:
        (targets / f"{job}.json").write_text(json.dumps(prometheus.targets("demo", [A])))
    path = tmp_path / "prometheus.yml"
    data = prometheus.config(stack="demo", scrape_interval_s=0.5, targets_dir=str(targets))
    path.write_text(json.dumps(data))
    done = subprocess.run(
        [promtool_binary, "check", "config", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
