"""A reconciler that a first apply starts waits for its end, and is known to be there meanwhile."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from enova.effects.state.keeper import read_keeper
from enova.effects.stop import StopFlag
from enova.services.reconciler import loop
from enova.stack.record import Record
from enova.workflows.wiring import Site, site
from tests.scenario.world import until
from tests.workflows.rehearsal import CHAT, Rehearsal, hosts


def applying(tmp_path: Path) -> tuple[Rehearsal, Site]:
    """A stack whose first apply is under way."""
    shop = Rehearsal(tmp_path, hosts(8))
    shop.write(CHAT)
    here = shop.plan().site
    with here.lease("test").acquire() as held:
        here.state.write(Record("web", serial=1, applying=True), held)
    return shop, site(shop.surroundings, "web", env="", pool=here.pool)


def test_it_waits_for_the_end_and_says_so(tmp_path: Path) -> None:
    shop, here = applying(tmp_path)
    ended: list[bool] = []
    waiting = threading.Thread(
        target=lambda: ended.append(loop.await_applied(here, stop=StopFlag(), interval_s=0.05))
    )
    waiting.start()
    until("it is noted", lambda: read_keeper(here.state) is not None, within_s=20)
    note = read_keeper(here.state)
    assert note is not None
    assert "first time" in note.problem
    assert not ended
    assert shop.apply().outcome.result == "succeeded"
    waiting.join(timeout=20)
    assert ended == [True]


def test_one_that_failed_leaves_nothing_to_keep(tmp_path: Path) -> None:
    _, here = applying(tmp_path)
    with here.lease("test").acquire() as held:
        here.state.write(replace(here.state.read(), serial=2, applying=False), held)
    assert not loop.await_applied(here, stop=StopFlag(), interval_s=0.05)
    assert read_keeper(here.state) is None


def test_it_can_be_told_to_stop(tmp_path: Path) -> None:
    _, here = applying(tmp_path)
    stop = StopFlag()
    stop.request()
    assert not loop.await_applied(here, stop=stop, interval_s=0.05)
    assert read_keeper(here.state) is None
