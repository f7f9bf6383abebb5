"""How many replicas a service should have: capacity at the goals against the arrival rate.

In: memory of earlier ticks, signals, the capacity table, bounds, supply and the time. Out: a
decision with the reason in words, and the next memory. Reconciler and simulator call the same
function. Scaling up is immediate and counts starting replicas as supply, so one burst is ordered
once. It goes by the last seconds too where chance does not explain them. Scaling down waits until
fewer replicas have sufficed for the whole hold, and every number that matters was known all along:
a tick that was blind starts the hold over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from enova.policy.signals import Signals

TARGET_UTILISATION = 0.85
"""Share of the table's rate that is planned for: the rest absorbs noise within one tick."""

CHANCE = 3.0
"""Standard deviations of its Poisson count by which recent arrivals must exceed what is planned.

At 80 % of what the table says that n replicas carry, chance alone then adds one at most once in a
day of looks every 5 s, whatever the rate (exact Poisson tails; with 2.5 up to 12 times)."""

BACKLOG_DRAIN_S = 60.0
"""A queue inside the engines is planned to be worked off within this time."""


@dataclass(frozen=True)
class CapacityTable:
    """The largest arrival rate (requests/s) at which the goals hold, by number of replicas.

    ``rows`` rise in replicas and in rate. Between rows the rate is interpolated, beyond the last
    one ``per_replica_rate`` is added for each replica.
    """

    per_replica_rate: float
    rows: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        points = ((0, 0.0), *self.rows)
        if self.per_replica_rate < 0 or any(
            later[0] <= earlier[0] or later[1] < earlier[1] for earlier, later in pairwise(points)
        ):
            raise ValueError("a capacity table must rise from row to row")

    def rate(self, replicas: int) -> float:
        """Requests/s that ``replicas`` serve within the goals. Never falls with more replicas."""
        points = ((0, 0.0), *self.rows)
        for (left, low), (right, high) in pairwise(points):
            if replicas <= right:
                return low + (high - low) * (replicas - left) / (right - left)
        last, rate = points[-1]
        return rate + (replicas - last) * self.per_replica_rate

    def replicas_for(self, rate: float, *, most: int) -> int:
        """Fewest replicas whose rate covers ``rate``; ``most`` when none does."""
        for count in range(most + 1):
            if self.rate(count) >= rate:
                return count
        return most


@dataclass(frozen=True)
class Bounds:
    """What the spec allows; ``warm`` replicas are kept above need, ``hold_s`` delays removal.

    ``to_zero`` lets the last replicas go when no request came for ``idle_s``; otherwise at least
    one stays, whatever ``least`` says.
    """

    least: int
    most: int
    warm: int = 0
    hold_s: float = 300.0
    to_zero: bool = False
    idle_s: float = 900.0


@dataclass(frozen=True)
class Supply:
    """Replicas that exist: serving ones and those on the way."""

    serving: int
    starting: int

    @property
    def total(self) -> int:
        """All that will serve once started."""
        return self.serving + self.starting


@dataclass(frozen=True)
class Memory:
    """What scaling remembers of one service.

    ``since_s``: from when on every tick knew its numbers; None after a blind one. ``wants``: the
    times and counts of the last hold that no later want exceeded, oldest and largest first.
    """

    wants: tuple[tuple[float, int], ...] = ()
    since_s: float | None = None


@dataclass(frozen=True)
class Decision:
    """The count to have, and why. ``inputs`` are the numbers the sentence rests on."""

    replicas: int
    reason: str
    inputs: tuple[tuple[str, float | None], ...] = ()


def decide(
    memory: Memory,
    signals: Signals,
    *,
    table: CapacityTable,
    bounds: Bounds,
    supply: Supply,
    current: int,
    now: float,
) -> tuple[Decision, Memory]:
    """The count for now. ``current`` is the count last ordered; it stays when signals are missing.

    Never removes while the arrival rate or the engines' queue is unknown; never goes below the
    floor (``bounds.least``, at least one; zero only when ``to_zero`` and idle) nor above
    ``bounds.most``, which holds at once. Recent arrivals only ever raise the count.
    """
    inputs: tuple[tuple[str, float | None], ...] = (
        ("arrival_rate", signals.arrival_rate),
        ("recent_arrival_rate", signals.recent_arrival_rate),
        ("waiting", signals.waiting),
        ("serving", float(supply.serving)),
        ("starting", float(supply.starting)),
        ("current", float(current)),
    )
    rate = _number(signals.arrival_rate)
    waiting = _number(signals.waiting)
    idle = _idle(bounds, signals, rate=rate, current=current)
    floor = min(0 if idle else max(bounds.least, 1), bounds.most)

    def answer(count: int, reason: str, then: Memory) -> tuple[Decision, Memory]:
        return Decision(count, reason, inputs), then

    kept = min(max(current, floor), bounds.most)
    if rate is None:
        # Whatever happened while nobody could see counts against removing: the hold starts over.
        return answer(kept, f"arrival rate unknown: {_kept(current, kept)}", Memory())
    if idle:
        reason = (
            f"no request for {signals.seconds_since_arrival or 0.0:.0f} s"
            if current
            else "no request: none is needed"
        )
        return answer(0, reason, _remember(memory, 0, bounds=bounds, now=now))
    sure = surely(signals.recent_arrival_rate, signals.recent_s)
    arriving = max(rate, sure)
    backlog = _backlog(arriving, waiting, table=table, supply=supply, current=current)
    demand = (arriving + backlog) / TARGET_UTILISATION
    need = table.replicas_for(demand, most=bounds.most)
    want = min(max(need + bounds.warm, floor), bounds.most)
    load = f"{rate:.3g} requests/s"
    if sure > rate:
        load = (
            f"{signals.recent_arrival_rate:.3g} requests/s in the last {signals.recent_s:.0f} s, "
            f"at least {sure:.3g} beyond chance,"
        )
    load += f" and {waiting:.0f} queued" if backlog else ""
    if want > current:
        if need > current:
            why = f"{load} need {want}: {current} serve {table.rate(current):.3g} requests/s"
            if table.rate(want) < demand:
                why += f", and the spec allows at most {bounds.most}"
        elif need + bounds.warm > current:
            why = f"{load} need {need}, and {bounds.warm} more are kept warm"
        else:
            why = f"the spec keeps at least {want}"
        return answer(want, why, _remember(memory, want, bounds=bounds, now=now))
    if current > bounds.most:
        reason = f"the spec allows at most {bounds.most}"
        return answer(bounds.most, reason, _remember(memory, want, bounds=bounds, now=now))
    if waiting is None:
        return answer(current, f"{load}; queue unknown: the count stays at {current}", Memory())
    then = _remember(memory, want, bounds=bounds, now=now)
    if want == current:
        return answer(current, f"{load} fit {current}", then)
    held = then.wants[0][1]
    watched = now - (then.since_s if then.since_s is not None else now)
    if watched < bounds.hold_s or held >= current:
        return answer(current, f"{load} need {want}: held at {current}", then)
    return answer(held, f"{load} needed at most {held} for {bounds.hold_s:.0f} s", then)


def surely(rate: float | None, seconds: float) -> float:
    """Requests/s that arrive at least, from a mean over ``seconds``; 0 when nothing is known.

    The count of a Poisson process less ``CHANCE`` of its standard deviations, the root of it.
    """
    known = _number(rate)
    if not known or not seconds > 0:
        return 0.0
    return max(known - CHANCE * math.sqrt(known / seconds), 0.0)


def _number(value: float | None) -> float | None:
    """A signal that is no number of requests is not known."""
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def _idle(bounds: Bounds, signals: Signals, *, rate: float | None, current: int) -> bool:
    """Whether zero replicas are right: nothing arrives and, to get there, it was quiet long enough.

    A service at zero stays there until a request arrives, also while nobody can see.
    """
    if not bounds.to_zero:
        return False
    if current == 0:
        return not rate
    quiet = signals.seconds_since_arrival
    still = rate == 0 and signals.waiting == 0 and signals.running == 0
    return still and quiet is not None and quiet >= bounds.idle_s


def _backlog(
    rate: float, waiting: float | None, *, table: CapacityTable, supply: Supply, current: int
) -> float:
    """Requests/s to serve on top of the arrivals so that the engines' queue is worked off.

    Nothing while replicas are on the way that will carry the arrivals: the queue that grows until
    they serve is the price of their start, and ordering more would not shorten it.
    """
    carried = table.rate(current) * TARGET_UTILISATION >= rate
    if supply.starting > 0 and carried:
        return 0.0
    return (waiting or 0.0) / BACKLOG_DRAIN_S


def _remember(memory: Memory, want: int, *, bounds: Bounds, now: float) -> Memory:
    """The memory with this tick's want. Times after ``now`` mean that the clock was set back."""
    if memory.since_s is None or memory.since_s > now or any(at > now for at, _ in memory.wants):
        return Memory(((now, want),), now)
    larger = tuple(
        (at, count) for at, count in memory.wants if at >= now - bounds.hold_s and count > want
    )
    return Memory((*larger, (now, want)), memory.since_s)


def _kept(current: int, kept: int) -> str:
    if kept == current:
        return f"the count stays at {current}"
    return f"only the bounds of the spec count, {kept} instead of {current}"
