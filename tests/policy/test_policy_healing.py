"""Healing: back-off that grows and ends, and hanging told from not knowing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from enova.policy.healing import (
    FORGET_AFTER_S,
    HANG_AFTER_S,
    LONGEST_DELAY_S,
    LOOK_EVERY_S,
    Memory,
    delay_s,
    hung,
    note_failures,
    waiting,
)

SLOT = "chat/replica/0"


@given(st.integers(0, 10_000))
def test_the_delay_never_falls_and_never_exceeds_the_longest(failures: int) -> None:
    assert 0 <= delay_s(failures) <= delay_s(failures + 1) <= LONGEST_DELAY_S


def test_the_first_restart_is_free_then_delays_double() -> None:
    assert [delay_s(n) for n in range(6)] == [0, 0, 1, 2, 4, 8]


def test_each_failed_instance_counts_once() -> None:
    memory = Memory()
    for now in (0.0, 5.0, 10.0):
        memory = note_failures(memory, {SLOT: "a"}, now=now)
    assert memory.failures[SLOT].count == 1
    assert memory.failures[SLOT].last_s == 0.0
    memory = note_failures(memory, {SLOT: "b"}, now=20.0)
    assert memory.failures[SLOT].count == 2
    assert waiting(memory, now=20.0) == {SLOT: 1.0}
    assert waiting(memory, now=21.0) == {}


def test_failures_are_forgotten_after_a_long_good_time() -> None:
    memory = note_failures(Memory(), {SLOT: "a"}, now=0.0)
    assert SLOT in note_failures(memory, {}, now=FORGET_AFTER_S - 1).failures
    assert note_failures(memory, {}, now=FORGET_AFTER_S).failures == {}


def test_a_loop_of_slow_failures_backs_off() -> None:
    memory, now = Memory(), 0.0
    for number in range(6):
        memory = note_failures(memory, {SLOT: f"i{number}"}, now=now)
        for _ in range(12):
            now += 60.0
            memory = note_failures(memory, {}, now=now)
    assert memory.failures[SLOT].count == 6


def test_a_clock_set_back_does_not_lengthen_the_wait() -> None:
    memory = Memory()
    for number in range(5):
        memory = note_failures(memory, {SLOT: f"i{number}"}, now=10_000.0)
    memory = note_failures(memory, {}, now=100.0)
    assert waiting(memory, now=100.0) == {SLOT: delay_s(5)}
    assert waiting(memory, now=100.0 + delay_s(5)) == {}


def watch(looks: list[tuple[float, float | None, float | None]]) -> list[bool]:
    memory = Memory()
    found = []
    for now, steps, running in looks:
        stuck, memory = hung(memory, {"i": (steps, running)}, now=now)
        found.append(bool(stuck))
    return found


def test_standing_still_with_work_for_long_enough_is_hanging() -> None:
    looks = [(float(t), 7.0, 3.0) for t in range(0, 70, 10)]
    assert watch(looks) == [False] * 6 + [True]


def test_an_idle_or_advancing_engine_does_not_hang() -> None:
    assert not any(watch([(float(t), 7.0, 0.0) for t in range(0, 200, 10)]))
    assert not any(watch([(float(t), float(t), 3.0) for t in range(0, 200, 10)]))


def test_work_that_began_while_nobody_looked_is_not_hanging() -> None:
    assert not any(watch([(0.0, 7.0, 0.0), (299.0, 7.0, 1.0)]))
    blind: list[tuple[float, float | None, float | None]] = [
        (float(t), None, None) for t in range(10, 300, 10)
    ]
    assert not any(watch([(0.0, 7.0, 1.0), *blind, (300.0, 7.0, 1.0)]))


def test_rare_looks_never_call_an_engine_hung() -> None:
    assert not any(watch([(t * (LOOK_EVERY_S + 1), 7.0, 1.0) for t in range(20)]))


def test_instances_that_are_gone_are_forgotten() -> None:
    _, memory = hung(Memory(), {"a": (1.0, 1.0), "b": (1.0, 1.0)}, now=0.0)
    _, memory = hung(memory, {"b": (1.0, 1.0)}, now=1.0)
    assert set(memory.progress) == {"b"}


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 60),
            st.one_of(st.none(), st.integers(0, 2).map(float)),
            st.one_of(st.none(), st.sampled_from([0.0, 1.0])),
        ),
        max_size=40,
    )
)
def test_hanging_is_only_what_was_seen_to_stand_still(
    gaps: list[tuple[float, float | None, float | None]],
) -> None:
    now, looks = 0.0, []
    for gap, steps, running in gaps:
        now += gap
        looks.append((now, steps, running))
    for index, stuck in enumerate(watch(looks)):
        if not stuck:
            continue
        at, steps, _ = looks[index]
        recent = [look for look in looks[: index + 1] if look[0] > at - HANG_AFTER_S]
        assert all(s in (None, steps) for _, s, _ in recent)
        assert all(r != 0 for _, s, r in recent if s is not None)
