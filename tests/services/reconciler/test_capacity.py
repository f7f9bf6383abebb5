"""What replicas carry is simulated with the traffic the choice was sized for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enova.services.reconciler.capacity import traffic_of
from enova.spec.model import Traffic


def test_the_lengths_of_a_trace_count_and_its_loss_stops_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    line = json.dumps({"prompt_tokens": 3000, "output_tokens": 400})
    trace.write_text("\n".join([line] * 50))
    stated = Traffic.model_validate({"peak": "2/s", "input_tokens": 100, "trace": str(trace)})
    assert traffic_of(stated).input.mean() == pytest.approx(3000)
    assert traffic_of(stated).output.mean() == pytest.approx(400)
    trace.unlink()
    assert traffic_of(stated).input.mean() == pytest.approx(100)
