"""When to start a failed replica again, and when a serving one counts as hung.

In: memory of failures and progress by address, what is seen now, the time. Out: which addresses
must wait (back-off), which instances hang, and the next memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 300.0
FORGET_AFTER_S = 1800.0
"""Longer than the longest delay and a slow start together, else a loop of slow failures is new
each time."""
HANG_AFTER_S = 60.0
"""An engine with open requests whose step count stands still this long does no work."""
LOOK_EVERY_S = 30.0
"""Looks further apart than this do not show that an engine stood still in between: it may have
been idle, with the requests of now only just begun."""


@dataclass(frozen=True)
class Failures:
    """Failures of one address in a row, and when the last was seen."""

    count: int
    last_s: float
    instance: str


@dataclass(frozen=True)
class Progress:
    """The last step count of an instance, since when it stands, and when it was last looked at."""

    steps: float
    at_s: float
    seen_s: float


@dataclass(frozen=True)
class Memory:
    """What healing remembers: failures by address, progress by instance id."""

    failures: Mapping[str, Failures] = field(default_factory=dict)
    progress: Mapping[str, Progress] = field(default_factory=dict)


def delay_s(failures: int) -> float:
    """Wait before start number ``failures`` + 1: nothing after the first failure, then doubling."""
    if failures <= 1:
        return 0.0
    # The exponent is bounded too: a slot may fail more often than a float can double.
    return min(FIRST_DELAY_S * 2.0 ** min(failures - 2, 32), LONGEST_DELAY_S)


def note_failures(memory: Memory, failed: Mapping[str, str], *, now: float) -> Memory:
    """Count each newly failed instance once. ``failed`` maps address to instance id."""
    kept = {
        # After the clock was set back, a failure of the future happened just now.
        address: replace(entry, last_s=min(entry.last_s, now))
        for address, entry in memory.failures.items()
        if now - entry.last_s < FORGET_AFTER_S or address in failed
    }
    for address, instance in failed.items():
        known = kept.get(address)
        if known is None:
            kept[address] = Failures(1, now, instance)
        elif known.instance != instance:
            kept[address] = Failures(known.count + 1, now, instance)
    return replace(memory, failures=kept)


def waiting(memory: Memory, *, now: float) -> dict[str, float]:
    """Addresses that must not be started yet, with the seconds that remain."""
    left = {
        address: entry.last_s + delay_s(entry.count) - now
        for address, entry in memory.failures.items()
    }
    return {address: seconds for address, seconds in sorted(left.items()) if seconds > 0}


def hung(
    memory: Memory, steps: Mapping[str, tuple[float | None, float | None]], *, now: float
) -> tuple[tuple[str, ...], Memory]:
    """Instances whose steps stand still while requests are open. ``steps``: id to (steps, open).

    An instance without numbers keeps its last progress: not knowing is not hanging. Only looks
    in a row, each within ``LOOK_EVERY_S`` of the one before, show that it stood still.
    """
    progress = dict(memory.progress)
    stuck = []
    for instance, (count, pending) in sorted(steps.items()):
        if count is None or pending is None:
            continue
        last = progress.get(instance)
        stands = last is not None and count == last.steps and pending > 0
        if last is None or not stands or not 0 <= now - last.seen_s <= LOOK_EVERY_S:
            progress[instance] = Progress(count, now, now)
            continue
        progress[instance] = replace(last, seen_s=now)
        if now - last.at_s >= HANG_AFTER_S:
            stuck.append(instance)
    progress = {instance: value for instance, value in progress.items() if instance in steps}
    return tuple(stuck), replace(memory, progress=progress)
