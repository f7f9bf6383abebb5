"""Prometheus is told of the reconciler while it reconciles, whenever there is a Prometheus."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from enova.effects.execute import StopFlag
from enova.services.reconciler import loop
from enova.services.reconciler.announced import announced
from enova.stack import recording
from enova.workflows.wiring import Site
from tests.workflows.rehearsal import CHAT, Rehearsal, hosts


@pytest.fixture
def web(tmp_path: Path) -> Rehearsal:
    rehearsal = Rehearsal(tmp_path, hosts(8))
    rehearsal.apply(CHAT)
    return rehearsal


def parts_of(web: Rehearsal) -> loop.Parts:
    return loop.Parts(web.signals, lambda _: None, lambda _: None, lambda: None)


def targets_of(here: Site) -> Path:
    return here.state.run_folder / "monitoring" / "targets"


def endpoint(here: Site) -> str:
    (target,) = json.loads((targets_of(here) / "enova.json").read_text())
    (found,) = target["targets"]
    return str(found)


def page(here: Site) -> str:
    return httpx.get(f"http://{endpoint(here)}/metrics", trust_env=False, timeout=10).text


def test_each_tick_is_on_the_page_and_a_clean_end_takes_it_away(web: Rehearsal) -> None:
    here = web.here()
    targets_of(here).mkdir(parents=True)
    with announced(here, parts_of(web), interval_s=1.0) as shown:
        assert "enova_reconciler_ticks_total{" not in page(here)
        shown.tell(loop.once(here, shown, stop=StopFlag()))
        assert 'enova_reconciler_ticks_total{result="quiet"} 1.0' in page(here)
        assert f'{recording.RECONCILER_WANTED}{{service="chat"}} 2.0' in page(here)
        before = endpoint(here)
    assert not (targets_of(here) / "enova.json").exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{before}/metrics", trust_env=False)


def test_a_prometheus_that_comes_later_is_told_at_the_next_tick(web: Rehearsal) -> None:
    here = web.here()
    with announced(here, parts_of(web), interval_s=1.0) as shown:
        assert not targets_of(here).exists()
        targets_of(here).mkdir(parents=True)
        shown.tell(loop.Report())
        assert page(here)


def test_after_a_destroy_nothing_is_written_again(web: Rehearsal) -> None:
    here = web.here()
    targets_of(here).mkdir(parents=True)
    with announced(here, parts_of(web), interval_s=1.0) as shown:
        (targets_of(here) / "enova.json").unlink()
        targets_of(here).rmdir()
        shown.tell(loop.Report(problem="nothing is applied any more", ended=True))
        shown.tell(loop.Report())
    assert not targets_of(here).exists()


def test_what_is_told_is_told_to_everybody(web: Rehearsal) -> None:
    heard: list[loop.Report] = []
    parts = loop.Parts(web.signals, lambda _: None, heard.append, lambda: None)
    with announced(web.here(), parts, interval_s=1.0) as shown:
        shown.tell(loop.Report())
    assert len(heard) == 1
