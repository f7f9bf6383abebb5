"""How many replicas a service should have: capacity at the goals against the arrival rate.

In: memory of earlier ticks, signals, the capacity table, bounds, supply and the time. Out: a
decision with the reason in words, and the next memory. Reconciler and simulator call the same
function. Scaling up is immediate and counts starting replicas as supply, so one burst is ordered
once. Scaling down waits until fewer replicas have sufficed for the whole hold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from enova.policy.signals import Signals

TARGET_UTILISATION = 0.85
"""Share of the table's rate that is planned for: the rest absorbs noise within one tick."""

BACKLOG_DRAIN_S = 60.0
"""A queue inside the engines is planned to be worked off within this time."""


@dataclass(frozen=True)
class CapacityTable:
    """The largest arrival rate (requests/s) at which the goals hold, by number of replicas.

    ``rows`` is sorted by replicas; beyond the last row ``per_replica_rate`` is added for each.
    """

    per_replica_rate: float
    rows: tuple[tuple[int, float], ...] = ()

    def rate(self, replicas: int) -> float:
        """Requests/s that ``replicas`` serve within the goals."""
        best_count, best_rate = 0, 0.0
        for count, rate in self.rows:
            if count > replicas:
                break
            best_count, best_rate = count, rate
        return best_rate + (replicas - best_count) * self.per_replica_rate

    def replicas_for(self, rate: float, *, most: int) -> int:
        """Fewest replicas whose rate covers ``rate``; ``most`` when none does."""
        for count in range(most + 1):
            if self.rate(count) >= rate:
                return count
        return most


@dataclass(frozen=True)
class Bounds:
    """What the spec allows; ``warm`` replicas are kept above need, ``hold_s`` delays removal."""

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
    """What scaling remembers of one service: wants of the last hold, newest last."""

    wants: tuple[tuple[float, int], ...] = ()


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

    Never removes on a missing arrival rate; never goes below ``bounds.least`` (zero only when
    ``to_zero`` and idle) nor above ``bounds.most``.
    """
    inputs: tuple[tuple[str, float | None], ...] = (
        ("arrival_rate", signals.arrival_rate),
        ("waiting", signals.waiting),
        ("serving", float(supply.serving)),
        ("starting", float(supply.starting)),
        ("current", float(current)),
    )
    least = _least(bounds, signals, current=current)
    if signals.arrival_rate is None:
        kept = min(max(current, least), bounds.most)
        return Decision(kept, "arrival rate unknown: the count stays", inputs), memory
    backlog = (signals.waiting or 0.0) / BACKLOG_DRAIN_S
    demand = (signals.arrival_rate + backlog) / TARGET_UTILISATION
    need = table.replicas_for(demand, most=bounds.most)
    want = min(max(need + bounds.warm if need or least else 0, least), bounds.most)
    recent = tuple((at, count) for at, count in memory.wants if at > now - bounds.hold_s)
    wants = (*recent, (now, want))
    next_memory = replace(memory, wants=wants)
    load = f"{signals.arrival_rate:.3g} requests/s"
    if want > current:
        reason = f"{load} need {want}: {current} serve {table.rate(current):.3g} requests/s"
        return Decision(want, reason, inputs), next_memory
    if want == current:
        return Decision(current, f"{load} fit {current}", inputs), next_memory
    held = max(count for _, count in wants)
    covered = bool(memory.wants) and memory.wants[0][0] <= now - bounds.hold_s
    if held >= current or not covered:
        return Decision(current, f"{load} need {want}: held at {current}", inputs), next_memory
    reason = f"{load} needed at most {held} for {bounds.hold_s:.0f} s"
    return Decision(max(held, least), reason, inputs), next_memory


def _least(bounds: Bounds, signals: Signals, *, current: int) -> int:
    """The floor now: zero only for an idle service that may go there."""
    if not bounds.to_zero:
        return max(bounds.least, 1) if bounds.least else 1
    idle = signals.seconds_since_arrival
    if current == 0:
        return 0
    return 0 if idle is not None and idle >= bounds.idle_s else max(bounds.least, 1)
