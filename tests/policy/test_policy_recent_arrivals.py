"""Recent arrivals: a jump orders more within seconds, chance and a single look order nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enova.policy.scaling import (
    TARGET_UTILISATION,
    Bounds,
    CapacityTable,
    Decision,
    Memory,
    Supply,
    decide,
    surely,
)
from enova.policy.signals import Signals

LOOK_S, RECENT_S, WINDOW_S = 5.0, 10.0, 30.0
REPLICAS = 4
BOUNDS = Bounds(least=1, most=40)


def seen(rate: float, recent: float | None, *, recent_s: float = RECENT_S) -> Signals:
    return Signals(
        at_s=0.0,
        window_s=WINDOW_S,
        arrival_rate=rate,
        recent_arrival_rate=recent,
        recent_s=recent_s,
        running=0.0,
        waiting=0.0,
    )


def once(signals: Signals, table: CapacityTable, *, current: int = REPLICAS) -> Decision:
    """What is decided without a memory, all replicas serving."""
    decision, _ = decide(
        Memory(),
        signals,
        table=table,
        bounds=BOUNDS,
        supply=Supply(current, 0),
        current=current,
        now=0.0,
    )
    return decision


def carrying(rate: float) -> CapacityTable:
    """``REPLICAS`` replicas serve ``rate`` within the goals."""
    return CapacityTable(per_replica_rate=rate / REPLICAS)


def poisson(random: Random, rate: float, begin: float, end: float) -> list[float]:
    """Times of arrivals."""
    times, at = [], begin
    while (at := at + random.expovariate(rate)) < end:
        times.append(at)
    return times


def looks(
    times: list[float], *, end: float, offset: float = 0.0
) -> Iterator[tuple[float, Signals]]:
    """What a reader of the counters sees every ``LOOK_S``, from the first whole window on."""
    count = int((end - offset) / LOOK_S)
    grown = [0] * count
    for at in times:
        if offset <= at < offset + count * LOOK_S:
            grown[int((at - offset) / LOOK_S)] += 1
    totals = [0, *accumulate(grown)]
    recent, window = int(RECENT_S / LOOK_S), int(WINDOW_S / LOOK_S)
    for i in range(window, count + 1):
        yield (
            offset + i * LOOK_S,
            seen(
                (totals[i] - totals[i - window]) / WINDOW_S,
                (totals[i] - totals[i - recent]) / RECENT_S,
            ),
        )


@pytest.mark.parametrize("carried", [0.5, 2.0, 7.0, 10.0, 40.0])
def test_chance_adds_a_replica_at_most_once_a_day_at_80_percent_of_capacity(carried: float) -> None:
    """By recent arrivals, that is: the whole window is given the true mean. A day of arrivals."""
    day, table, rate = 86_400.0, carrying(carried), 0.8 * carried
    times = poisson(Random(f"noise {carried}"), rate, 0.0, day)
    added = [
        at
        for at, signals in looks(times, end=day)
        if once(replace(signals, arrival_rate=rate), table).replicas > REPLICAS
    ]
    # Looks in a row share arrivals: an order is given once.
    assert sum(1 for a, b in pairwise((-1e9, *added)) if b - a > RECENT_S) <= 1, added


@pytest.mark.parametrize("carried", [2.0, 7.0, 10.0, 40.0, 200.0])
def test_a_doubling_is_seen_within_15_seconds(carried: float) -> None:
    """From 80 % of what is planned for the replicas; looks fall anywhere after it."""
    table = carrying(carried / TARGET_UTILISATION)
    took = []
    for trial in range(100):
        random = Random(f"doubling {carried} {trial}")
        jump, end = 100.0, 160.0
        times = poisson(random, 0.8 * carried, 0.0, jump) + poisson(
            random, 1.6 * carried, jump, end
        )
        ordered = next(
            at
            for at, signals in looks(times, end=end, offset=random.uniform(0, LOOK_S))
            if at > jump and once(signals, table).replicas > REPLICAS
        )
        took.append(ordered - jump)
    took.sort()
    assert took[50] <= 12.0
    assert took[90] <= (15.0 if carried > 4 else 20.0)


@pytest.mark.parametrize("carried", [40.0, 200.0])
def test_a_jump_from_little_load_is_seen_long_before_the_whole_window_shows_it(
    carried: float,
) -> None:
    table = carrying(carried / TARGET_UTILISATION)
    sooner = 0.0
    for trial in range(50):
        random = Random(f"jump {carried} {trial}")
        times = poisson(random, 0.2 * carried, 0.0, 100.0) + poisson(
            random, 1.5 * carried, 100.0, 160.0
        )
        found = {"with": 0.0, "without": 0.0}
        for at, signals in looks(times, end=160.0, offset=random.uniform(0, LOOK_S)):
            blunt = replace(signals, recent_arrival_rate=None)
            for how, what in (("with", signals), ("without", blunt)):
                if not found[how] and once(what, table).replicas > REPLICAS:
                    found[how] = at
        assert 100.0 < found["with"] <= 115.0
        sooner += found["without"] - found["with"]
    assert sooner / 50 >= 5.0


rates = st.floats(0, 500)


@settings(max_examples=300, deadline=None)
@given(rates, rates, st.floats(0.1, 60), st.floats(0.1, 50), st.integers(1, 20))
def test_recent_arrivals_never_lower_the_count_and_never_exceed_their_own_rate(
    rate: float, recent: float, recent_s: float, each: float, current: int
) -> None:
    table = CapacityTable(each)
    count = once(seen(rate, recent, recent_s=recent_s), table, current=current).replicas
    assert count >= once(seen(rate, None), table, current=current).replicas
    assert count <= once(seen(max(rate, recent), None), table, current=current).replicas


@settings(max_examples=300, deadline=None)
@given(rates, rates, st.floats(0.1, 600), st.floats(0.1, 600))
def test_what_surely_arrives_grows_with_the_rate_and_with_the_time(
    rate: float, more: float, seconds: float, longer: float
) -> None:
    assert 0 <= surely(rate, seconds) <= rate
    rounding = 1e-9
    assert surely(rate, seconds + longer) >= surely(rate, seconds) - rounding
    assert surely(rate + more, seconds) >= surely(rate, seconds) - rounding


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [(None, 10.0), (float("nan"), 10.0), (float("inf"), 10.0), (-1.0, 10.0), (5.0, 0.0)],
)
def test_what_is_no_rate_is_sure_of_nothing(rate: float | None, seconds: float) -> None:
    assert surely(rate, seconds) == 0


def test_the_removal_after_a_burst_waits_a_whole_hold() -> None:
    memory, now, counts = Memory(), 0.0, []
    bounds = Bounds(least=1, most=20, hold_s=60.0)
    current = 2
    for rate, recent in [(10.0, 10.0), (20.0, 60.0), *[(10.0, 10.0)] * 13]:
        decision, memory = decide(
            memory,
            seen(rate, recent),
            table=CapacityTable(10.0),
            bounds=bounds,
            supply=Supply(current, 0),
            current=current,
            now=now,
        )
        now, current = now + LOOK_S, decision.replicas
        counts.append(current)
    # 60/s less three roots of 600 in 10 s is 52.7/s, over 0.85: seven.
    assert counts == [2, *[7] * 13, 2]


def test_the_reason_names_the_recent_rate_and_what_is_beyond_chance() -> None:
    decision = once(seen(20.0, 60.0), CapacityTable(10.0), current=2)
    assert decision.reason == (
        "60 requests/s in the last 10 s, at least 52.7 beyond chance, need 7: 2 serve 20 requests/s"
    )
    assert dict(decision.inputs)["recent_arrival_rate"] == 60.0
