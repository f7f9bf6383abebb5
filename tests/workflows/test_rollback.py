"""Rolling back goes to the state applied before this one; counts stay the scaler's."""

from __future__ import annotations

import pytest

from enova.base.errors import Refused
from tests.workflows.rehearsal import CHAT, EMBED, Rehearsal

CHANGED = CHAT.replace("max-num-seqs: 32", "max-num-seqs: 64")


def test_there_and_back_again(web: Rehearsal) -> None:
    web.apply(CHAT)
    web.apply(CHANGED)
    web.rollback()
    assert web.fields() == {32}
    assert not web.plan().plan.is_empty, "the spec still asks for the other"
    web.rollback()
    assert web.fields() == {64}
    assert web.plan().plan.is_empty


def test_a_named_apply(web: Rehearsal) -> None:
    web.apply(CHAT)
    web.apply(CHANGED)
    web.apply(CHANGED.replace("64", "128"))
    web.rollback(1)
    assert web.fields() == {32}


def test_settings_go_back_too(web: Rehearsal) -> None:
    web.apply(CHAT)
    web.apply(CHAT.replace("max: 6", "max: 8"))
    assert not web.rollback().plan.is_empty
    web.signals.rates["chat"] = 10_000.0
    web.tick()
    assert len(web.serving()) == 6


def test_the_scalers_count_stays(web: Rehearsal) -> None:
    web.apply(CHAT)
    web.apply(CHANGED)
    web.signals.rates["chat"] = 10_000.0
    web.tick()
    web.rollback()
    assert len(web.serving()) == 6
    assert web.state.read().counts == {"chat": 6}


def test_scaling_and_healing_are_no_history(web: Rehearsal) -> None:
    web.apply(CHAT)
    web.signals.rates["chat"] = 10_000.0
    web.tick()
    with pytest.raises(Refused, match="no earlier applied state"):
        web.rollback()


def test_a_service_added_since_goes_and_one_removed_since_comes_back(web: Rehearsal) -> None:
    web.apply(CHAT)
    web.apply(CHAT + EMBED)
    web.rollback()
    assert web.serving("embed") == []
    web.rollback()
    assert web.serving("embed") == ["embed/replica/0"]


def test_a_failed_apply_is_no_state_to_go_back_to(web: Rehearsal) -> None:
    web.apply(CHAT)
    web.apply(CHANGED)
    with web.driver.edit() as world:
        world.faults.fail_at.add(world.count + 1)
    assert web.apply(CHANGED.replace("64", "128")).outcome.result == "failed"
    web.rollback()
    assert web.fields() == {32}
