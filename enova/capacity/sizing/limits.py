"""How much one candidate serves within the goals: the largest rate, found by simulation.

The steady state gives the bracket in a fraction of a millisecond; simulated percentiles decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from enova.capacity.perf.estimate import Configuration, Estimator, Simulated
from enova.capacity.sim.report import Goal
from enova.capacity.workload import Workload

QUEUE_GOAL = Goal("ttft", 95, 10.0)
"""What must hold when no goal is stated: the queue does not grow."""

FEWEST_REQUESTS = 240
MOST_REQUESTS = 2400
RESIDENCES = 8
"""A simulated load point covers this many mean stays of a request, within the bounds above."""

PRECISION = 1.04
IDLE_RATE = 1e-3
"""A request every 1,000 s: no two meet."""


@dataclass(frozen=True)
class Capacity:
    """The largest rate of one replica within the goals, with the load point that showed it.

    ``rate_per_s`` is 0 when a goal is missed even without load; then ``missed`` names it and
    ``at`` is the unloaded point.
    """

    rate_per_s: float
    at: Simulated
    missed: Goal | None = None


def effective_goals(goals: Sequence[Goal]) -> tuple[Goal, ...]:
    """The goals that bind: the stated ones, and that the queue does not grow."""
    if any(goal.metric in ("ttft", "e2e") for goal in goals):
        return tuple(sorted(goals))
    return tuple(sorted((*goals, QUEUE_GOAL)))


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
    estimator: Estimator, config: Configuration, workload: Workload, goals: Sequence[Goal]
) -> Capacity:
    """The largest rate at which every goal holds with the upper end of its interval."""

    def point(rate: float) -> Simulated:
        return load_point(estimator, config, workload, rate)

    idle = point(IDLE_RATE)
    missed = first_missed(idle, goals)
    if missed is not None:
        return Capacity(0.0, idle, missed)
    high = max(quick_rate(estimator, config, workload, goals), 2 * IDLE_RATE)
    rate, best = largest_rate(point, goals, high=high)
    return Capacity(max(rate, IDLE_RATE), best or idle)


def largest_rate(
    point: Callable[[float], Simulated], goals: Sequence[Goal], *, high: float, low: float = 0.0
) -> tuple[float, Simulated | None]:
    """The largest rate up to ``high`` whose load point meets the goals, and that point.

    ``low`` is a first guess that is likely to hold; 0 and None when nothing above ``IDLE_RATE``
    does.
    """
    best: Simulated | None = None
    held = 0.0
    rate = high
    while rate > IDLE_RATE and high / max(held, 1e-9) > PRECISION:
        tried = point(rate)
        if tried.meets(goals):
            held, best = rate, tried
        else:
            high = rate
        if held:
            rate = (held + high) / 2
        else:
            rate = low if IDLE_RATE < low < high * 0.99 else high / 2
    return held, best


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
    estimator: Estimator, config: Configuration, workload: Workload, rate: float
) -> Simulated:
    """One simulated load point, with as many requests as its state needs to settle."""
    state = estimator.steady_state(config, workload, rate)
    count = min(MOST_REQUESTS, max(FEWEST_REQUESTS, int(RESIDENCES * state.running)))
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
