"""Scaling: what it must never do, over random histories, and what it says in plain cases."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enova.policy.scaling import (
    Bounds,
    CapacityTable,
    Decision,
    Memory,
    Supply,
    decide,
)
from enova.policy.signals import Signals

TEN_EACH = CapacityTable(per_replica_rate=10.0)
TICK_S = 5.0


def signals(
    rate: float | None,
    *,
    waiting: float | None = 0.0,
    running: float | None = 0.0,
    quiet: float | None = None,
    recent: float | None = None,
) -> Signals:
    return Signals(
        at_s=0.0,
        window_s=30.0,
        arrival_rate=rate,
        recent_arrival_rate=recent,
        recent_s=10.0,
        waiting=waiting,
        running=running,
        seconds_since_arrival=quiet,
    )


@dataclass
class World:
    """A service whose orders come true at once, unless ``starting`` says otherwise."""

    bounds: Bounds
    current: int
    table: CapacityTable = TEN_EACH
    now: float = 1_000.0
    memory: Memory = field(default_factory=Memory)

    def tick(self, seen: Signals, *, after: float = TICK_S, starting: int = 0) -> Decision:
        self.now += after
        decision, self.memory = decide(
            self.memory,
            seen,
            table=self.table,
            bounds=self.bounds,
            supply=Supply(max(self.current - starting, 0), starting),
            current=self.current,
            now=self.now,
        )
        self.current = decision.replicas
        return decision


rates = st.one_of(
    st.none(),
    st.just(0.0),
    st.floats(0, 200),
    st.sampled_from([math.nan, math.inf, -1.0]),
)
queues = st.one_of(st.none(), st.just(0.0), st.floats(0, 500), st.just(math.nan))
looks = st.builds(
    lambda rate, recent, waiting, running, quiet: signals(
        rate, recent=recent, waiting=waiting, running=running, quiet=quiet
    ),
    rates,
    rates,
    queues,
    st.one_of(st.none(), st.just(0.0), st.floats(0, 10)),
    st.one_of(st.none(), st.floats(0, 3_000)),
)
all_bounds = st.builds(
    lambda least, more, warm, hold, to_zero: Bounds(
        least=least, most=max(1, least + more), warm=warm, hold_s=hold, to_zero=to_zero, idle_s=120
    ),
    st.integers(0, 4),
    st.integers(0, 12),
    st.integers(0, 3),
    st.sampled_from([0.0, 30.0, 300.0]),
    st.booleans(),
)
tables = st.one_of(
    st.builds(CapacityTable, st.floats(0, 50)),
    st.builds(
        lambda each, first, more: CapacityTable(each, ((1, first), (4, first + more))),
        st.floats(0, 50),
        st.floats(0, 50),
        st.floats(0, 300),
    ),
)
steps = st.lists(st.tuples(looks, st.floats(0.1, 400), st.integers(0, 3)), min_size=1, max_size=40)


def known(number: float | None) -> bool:
    return number is not None and math.isfinite(number) and number >= 0


@settings(max_examples=300, deadline=None)
@given(all_bounds, tables, st.integers(0, 20), steps)
def test_the_count_stays_within_the_floor_and_the_most(
    bounds: Bounds,
    table: CapacityTable,
    current: int,
    history: list[tuple[Signals, float, int]],
) -> None:
    world = World(bounds, current, table)
    for seen, after, starting in history:
        before = world.current
        count = world.tick(seen, after=after, starting=starting).replicas
        assert count <= bounds.most
        floor = min(max(bounds.least, 1), bounds.most)
        if not bounds.to_zero:
            assert count >= floor
        elif count < floor:
            assert count == 0
            if before:
                assert seen.arrival_rate == 0 and seen.waiting == 0 and seen.running == 0
                assert seen.seconds_since_arrival is not None
                assert seen.seconds_since_arrival >= bounds.idle_s
            else:
                assert not known(seen.arrival_rate) or seen.arrival_rate == 0


@settings(max_examples=300, deadline=None)
@given(all_bounds, tables, st.integers(0, 20), steps)
def test_nothing_is_removed_while_blind(
    bounds: Bounds,
    table: CapacityTable,
    current: int,
    history: list[tuple[Signals, float, int]],
) -> None:
    world = World(bounds, min(current, bounds.most), table)
    for seen, after, starting in history:
        before = world.current
        count = world.tick(seen, after=after, starting=starting).replicas
        if not (known(seen.arrival_rate) and known(seen.waiting)):
            assert count >= before


@settings(max_examples=300, deadline=None)
@given(all_bounds, tables, st.integers(1, 20), steps)
def test_a_removal_follows_a_whole_hold_without_an_addition_or_a_blind_look(
    bounds: Bounds,
    table: CapacityTable,
    current: int,
    history: list[tuple[Signals, float, int]],
) -> None:
    """So a count that goes up and down again does so at most once a hold."""
    world = World(bounds, min(current, bounds.most), table)
    hold_from = world.now + history[0][1]
    for seen, after, starting in history:
        before = world.current
        count = world.tick(seen, after=after, starting=starting).replicas
        blind = not (known(seen.arrival_rate) and known(seen.waiting))
        if count > before or blind:
            hold_from = world.now
        if 0 < count < before:
            assert world.now - hold_from >= bounds.hold_s


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0, 100), min_size=2, max_size=60),
    st.sampled_from([30.0, 100.0, 300.0]),
)
def test_a_removal_never_goes_below_what_the_hold_needed(loads: list[float], hold: float) -> None:
    bounds = Bounds(least=1, most=30, hold_s=hold)
    world = World(bounds, 5)
    needed: list[tuple[float, int]] = []
    for load in loads:
        before = world.current
        count = world.tick(signals(load)).replicas
        fresh, _ = decide(
            Memory(),
            signals(load),
            table=TEN_EACH,
            bounds=bounds,
            supply=Supply(1, 0),
            current=0,
            now=0.0,
        )
        needed.append((world.now, fresh.replicas))
        if count < before:
            assert count >= max(n for at, n in needed if at >= world.now - hold)


@settings(max_examples=200, deadline=None)
@given(tables, st.floats(0, 500), st.integers(0, 40))
def test_the_fewest_replicas_that_carry_a_rate(
    table: CapacityTable, rate: float, most: int
) -> None:
    count = table.replicas_for(rate, most=most)
    assert 0 <= count <= most
    assert table.rate(count) >= rate or count == most
    assert count == 0 or table.rate(count - 1) < rate
    assert all(table.rate(n) <= table.rate(n + 1) + 1e-9 for n in range(12))


def test_a_table_that_falls_is_refused() -> None:
    with pytest.raises(ValueError, match="rise"):
        CapacityTable(1.0, ((1, 5.0), (2, 4.0)))


def test_between_rows_the_rate_is_interpolated_not_extrapolated() -> None:
    table = CapacityTable(per_replica_rate=5.0, rows=((1, 5.0), (4, 12.0)))
    assert table.rate(3) == pytest.approx(5 + 7 * 2 / 3)
    assert table.rate(4) == 12.0
    assert table.rate(6) == 22.0
    assert table.replicas_for(12.0, most=10) == 4


def test_more_load_orders_more_at_once_and_only_once() -> None:
    world = World(Bounds(least=1, most=20), 1)
    decision = world.tick(signals(40.0))
    assert decision.replicas == 5
    assert "40 requests/s need 5" in decision.reason
    # The queue grows until the four serve: that was paid for already.
    for queue in range(0, 1200, 50):
        assert world.tick(signals(40.0, waiting=queue), starting=4).replicas == 5


def test_starting_replicas_do_not_hide_a_load_they_cannot_carry() -> None:
    world = World(Bounds(least=1, most=20), 1)
    world.tick(signals(40.0))
    assert world.tick(signals(80.0), starting=4).replicas == 10


def test_a_queue_that_stays_orders_more() -> None:
    world = World(Bounds(least=1, most=20), 5)
    decision = world.tick(signals(40.0, waiting=1200.0))
    assert decision.replicas == 8
    assert "1200 queued" in decision.reason


def test_fewer_are_kept_after_exactly_one_hold() -> None:
    world = World(Bounds(least=1, most=20, hold_s=300), 5)
    waited = [world.tick(signals(5.0)).replicas for _ in range(61)]
    assert waited == [5] * 60 + [1]


@pytest.mark.parametrize("jitter", [0.0, 0.3, 0.9])
def test_the_hold_ends_with_any_rhythm_of_looks(jitter: float) -> None:
    world = World(Bounds(least=1, most=20, hold_s=300), 5)
    start = world.now
    looks = 0
    while world.current == 5:
        looks += 1
        world.tick(signals(5.0), after=TICK_S + (jitter if looks % 2 else -jitter))
        assert looks < 100
    assert world.now - start <= 300 + 3 * TICK_S


def test_rare_looks_scale_down_too() -> None:
    world = World(Bounds(least=1, most=20, hold_s=300), 5)
    assert world.tick(signals(5.0), after=600).replicas == 5
    assert world.tick(signals(5.0), after=600).replicas == 1


def test_one_blind_look_starts_the_hold_over() -> None:
    world = World(Bounds(least=1, most=20, hold_s=300), 5)
    for _ in range(55):
        world.tick(signals(5.0))
    assert "unknown" in world.tick(signals(None)).reason
    for _ in range(60):
        assert world.tick(signals(5.0)).replicas == 5
    assert world.tick(signals(5.0)).replicas == 1


def test_an_unknown_queue_never_removes_but_a_known_rate_still_adds() -> None:
    world = World(Bounds(least=1, most=20, hold_s=0), 5)
    assert world.tick(signals(5.0, waiting=None)).replicas == 5
    assert "queue unknown" in world.tick(signals(5.0, waiting=None)).reason
    assert world.tick(signals(80.0, waiting=None)).replicas == 10


def test_a_burst_inside_the_hold_is_remembered() -> None:
    world = World(Bounds(least=1, most=20, hold_s=100), 8)
    for tick in range(21):
        world.tick(signals(30.0 if tick == 10 else 5.0))
    assert world.current == 4
    for _ in range(11):
        world.tick(signals(5.0))
    assert world.current == 1


def test_warm_replicas_are_kept_above_need() -> None:
    world = World(Bounds(least=1, most=20, warm=2), 1)
    decision = world.tick(signals(5.0))
    assert decision.replicas == 3
    assert "kept warm" in decision.reason


def test_the_floor_names_itself() -> None:
    assert World(Bounds(least=3, most=5), 1).tick(signals(0.0)).reason == (
        "the spec keeps at least 3"
    )


def test_a_lowered_most_holds_at_once_even_when_blind() -> None:
    assert World(Bounds(least=1, most=4), 9).tick(signals(80.0)).replicas == 4
    assert World(Bounds(least=1, most=4), 9).tick(signals(None)).replicas == 4


def test_the_reason_says_when_the_most_is_not_enough() -> None:
    decision = World(Bounds(least=1, most=4), 2).tick(signals(500.0))
    assert decision.replicas == 4
    assert "at most 4" in decision.reason


def test_to_zero_when_idle_and_back_with_the_first_request() -> None:
    world = World(Bounds(least=2, most=20, to_zero=True, idle_s=900), 2)
    assert world.tick(signals(0.0, quiet=899.0)).replicas == 2
    assert world.tick(signals(0.0, quiet=901.0)).replicas == 0
    assert world.tick(signals(0.0, quiet=906.0)).replicas == 0
    assert world.tick(signals(None)).replicas == 0
    assert world.tick(signals(0.03, quiet=1.0)).replicas == 2


@pytest.mark.parametrize(
    "seen",
    [
        signals(0.0, quiet=None),
        signals(0.0, quiet=math.nan),
        signals(0.0, waiting=None, quiet=2_000),
        signals(0.0, running=None, quiet=2_000),
        signals(0.0, running=1.0, quiet=2_000),
        signals(None, quiet=2_000),
    ],
)
def test_not_to_zero_unless_all_is_known_to_be_quiet(seen: Signals) -> None:
    assert World(Bounds(least=1, most=20, to_zero=True), 1).tick(seen).replicas == 1


def test_a_clock_set_back_delays_a_removal_and_no_more() -> None:
    world = World(Bounds(least=1, most=20, hold_s=100), 5)
    for _ in range(15):
        world.tick(signals(5.0))
    world.tick(signals(5.0), after=-3600.0)
    start = world.now
    while world.current == 5:
        world.tick(signals(5.0))
        assert world.now - start <= 105
