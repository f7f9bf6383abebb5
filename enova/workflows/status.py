"""``enova status``: what runs, how it does, who may change it and what was decided last.

In: one stack's site. Out: a value the views print. Reads only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from enova.effects.sources.base import ServiceTargets
from enova.effects.state.journal import Entry
from enova.effects.state.lease import LeaseStatus
from enova.policy.signals import Signals
from enova.stack.observed import Observed, State
from enova.stack.plan import Ask
from enova.stack.record import Record
from enova.workflows.wiring import Site, gather


@dataclass(frozen=True)
class Status:
    """One stack now. ``signals`` by service; ``recent`` are journal lines, newest last."""

    record: Record
    applied: Ask | None
    observed: Observed
    signals: Mapping[str, Signals]
    lease: LeaseStatus
    recent: tuple[Entry, ...]


class ReadSignals(Protocol):
    """How the signals of what was applied are read."""

    def __call__(self, applied: Ask, observed: Observed) -> Mapping[str, Signals]:
        """Signals by service."""
        ...


def status(here: Site, read_signals: ReadSignals, *, recent: int = 5) -> Status:
    """The status of a stack now."""
    seen = gather(here)
    signals = read_signals(seen.recorded, seen.observed) if seen.recorded is not None else {}
    return Status(
        record=seen.record,
        applied=seen.recorded,
        observed=seen.observed,
        signals=signals,
        lease=here.lease("enova status").status(),
        recent=here.journal.tail(recent),
    )


def targets(applied: Ask, observed: Observed) -> Sequence[ServiceTargets]:
    """What a signal source reads: every instance that serves or did and still runs."""
    return [
        ServiceTargets(
            service=name,
            instances=tuple(
                (i.id, i.endpoint)
                for i in observed.of_service(name)
                if i.endpoint is not None and i.state in (State.SERVING, State.UNHEALTHY)
            ),
            engine=choice.engine,
            engine_version=choice.engine_version,
        )
        for name, choice in sorted(applied.choices.items())
    ]
