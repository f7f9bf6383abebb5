"""How much one candidate serves within the goals: the largest rate, found by simulation.

The steady state gives the bracket in a fraction of a millisecond; simulated percentiles decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from enova.base.units import format_duration, format_share
from enova.capacity.perf.estimate import Configuration, Estimator, Simulated
from enova.capacity.perf.point import Figure
from enova.capacity.sim.report import Goal, Objectives
from enova.capacity.workload import Workload

QUEUE_GOAL = Goal("ttft", 95, 10.0)
"""What must hold when no goal is stated: the queue does not grow."""

FEWEST_REQUESTS = 240
MOST_REQUESTS = 2400
RESIDENCES = 8
"""A simulated load point covers this many mean stays of a request, within the bounds above."""

MISSES_SEEN = 25
"""Requests outside the goals that a load point must have room for, to tell a share by."""

PRECISION = 1.04
IDLE_RATE = 1e-3
"""A request every 1,000 s: no two meet."""


@dataclass(frozen=True)
class Capacity:
    """The largest rate of one replica within the goals, with the load point that showed it.

    ``rate_per_s`` is 0 when a goal is missed even without load; then ``missed`` says so in words
    and ``at`` is the unloaded point. ``by_attainment``: every percentile would allow a higher
    rate, the share of requests within all goals at once does not.
    """

    rate_per_s: float
    at: Simulated
    missed: str = ""
    by_attainment: bool = False


@dataclass(frozen=True)
class LargestRate:
    """The largest rate that holds, its load point, and the lowest tried one that does not."""

    rate_per_s: float
    at: Simulated | None
    beyond: Simulated | None


def effective_goals(stated: Objectives) -> Objectives:
    """The goals that bind: the stated ones, and that the queue does not grow."""
    goals = stated.goals
    if not any(goal.metric in ("ttft", "e2e") for goal in goals):
        goals = (*goals, QUEUE_GOAL)
    return replace(stated, goals=tuple(sorted(goals)))


def attained(point: Simulated, goals: Sequence[Goal]) -> Figure:
    """The share of requests within all goals at once, with its interval.

    Its lower end takes every latency at the upper end of its own interval.
    """
    return Figure(
        point.report.attainment(goals),
        point.report.attainment(goals, slower=point.doubt.of),
        point.report.attainment(goals, slower=lambda metric: 1 / point.doubt.of(metric)),
        point.doubt.source,
    )


def attains(point: Simulated, goals: Objectives) -> bool:
    """Whether the asked share of requests, if any, is reached by the lower end of its interval."""
    share = goals.attainment
    return share is None or attained(point, goals.goals).low >= share


def holds(point: Simulated, goals: Objectives) -> bool:
    """Whether a load point meets everything asked for with the worse end of its intervals."""
    return point.meets(goals.goals) and attains(point, goals)


def shortfall(point: Simulated, goals: Objectives, *, when: str) -> str:
    """What a load point misses by most, in words; "" when everything holds.

    A percentile goes first: whoever misses one is not told about the share of requests.
    """
    goal = first_missed(point, goals.goals)
    if goal is not None:
        figure = point.figure(goal.metric, goal.percentile)
        return (
            f"{goal.metric} p{goal.percentile} is {format_duration(figure.value)} "
            f"(up to {format_duration(figure.high)}) {when}, "
            f"the goal is {format_duration(goal.limit_s)}"
        )
    if goals.attainment is None or attains(point, goals):
        return ""
    share = attained(point, goals.goals)
    return (
        f"{format_share(share.value)} (down to {format_share(share.low)}) of requests are within "
        f"all goals {when}, goals.attainment is {format_share(goals.attainment)}"
    )


def requests_for(running: float, goals: Objectives, *, replicas: int = 1) -> int:
    """How many requests a load point simulates.

    ``running`` is the mean number of sequences of one replica. A share close to 1 is told by its
    few misses, so it takes more requests; ``MOST_REQUESTS`` a replica bound that too.
    """
    count = replicas * min(MOST_REQUESTS, max(FEWEST_REQUESTS, int(RESIDENCES * running)))
    if goals.attainment is None:
        return count
    misses = 1 - goals.attainment
    need = MISSES_SEEN / misses if misses > 0 else math.inf
    return int(max(count, min(need, replicas * MOST_REQUESTS)))


def quick_rate(
    estimator: Estimator, config: Configuration, workload: Workload, goals: Sequence[Goal]
) -> float:
    """Upper bound of the rate by means alone: percentiles only make it smaller."""
    doubt = estimator.doubt(config)
    output = workload.output.mean()

    def meets(rate: float) -> bool:
        state = estimator.steady_state(config, workload, rate)
        if not state.stable:
            return False
        figures = {
            "ttft": state.ttft_s,
            "tpot": state.tpot_s,
            "itl": 0.0,
            "e2e": state.ttft_s * 0.5 + state.tpot_s * output * 0.5,
        }
        return all(figures[g.metric] * doubt.of(g.metric) <= g.limit_s for g in goals)

    return _largest(meets, start=1.0)


def capacity(
    estimator: Estimator, config: Configuration, workload: Workload, goals: Objectives
) -> Capacity:
    """The largest rate at which everything asked for holds with the worse end of its interval."""

    def point(rate: float) -> Simulated:
        return load_point(estimator, config, workload, rate, goals)

    idle = point(IDLE_RATE)
    missed = shortfall(idle, goals, when="without load")
    if missed:
        return Capacity(0.0, idle, missed)
    high = max(quick_rate(estimator, config, workload, goals.goals), 2 * IDLE_RATE)
    found = largest_rate(point, goals, high=high)
    return Capacity(
        max(found.rate_per_s, IDLE_RATE),
        found.at or idle,
        by_attainment=found.beyond is not None and found.beyond.meets(goals.goals),
    )


def largest_rate(
    point: Callable[[float], Simulated], goals: Objectives, *, high: float, low: float = 0.0
) -> LargestRate:
    """The largest rate up to ``high`` whose load point holds.

    ``low`` is a first guess that is likely to hold; the rate is 0 when none above ``IDLE_RATE``
    does.
    """
    best: Simulated | None = None
    beyond: Simulated | None = None
    held = 0.0
    rate = high
    while rate > IDLE_RATE and high / max(held, 1e-9) > PRECISION:
        tried = point(rate)
        if holds(tried, goals):
            held, best = rate, tried
        else:
            high, beyond = rate, tried
        if held:
            rate = (held + high) / 2
        else:
            rate = low if IDLE_RATE < low < high * 0.99 else high / 2
    return LargestRate(held, best, beyond)


def first_missed(point: Simulated, goals: Sequence[Goal]) -> Goal | None:
    """The goal that is missed by the largest factor, None when all hold."""
    worst = max(
        goals,
        key=lambda g: point.figure(g.metric, g.percentile).high / g.limit_s,
        default=None,
    )
    if worst is None or point.figure(worst.metric, worst.percentile).high <= worst.limit_s:
        return None
    return worst


def load_point(
    estimator: Estimator,
    config: Configuration,
    workload: Workload,
    rate: float,
    goals: Objectives,
) -> Simulated:
    """One simulated load point, with as many requests as its state and the goals need."""
    state = estimator.steady_state(config, workload, rate)
    count = requests_for(state.running, goals)
    return estimator.simulate(config, workload, rate, count=count)


def _largest(holds: Callable[[float], bool], *, start: float) -> float:
    """The largest rate at which a monotone condition holds, to 1 %; 0 when none above 1e-3."""
    low, high = 0.0, start
    while holds(high):
        low, high = high, high * 2
        if high > 1e6:
            return low
    while low == 0.0 and high > 1e-3:
        if holds(high / 2):
            low = high / 2
        else:
            high /= 2
    while low and high / low > 1.01:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
