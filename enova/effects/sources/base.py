"""What reads signals, and how several such sources become one.

In: the engines of each service and the gateway, as endpoints. Out: ``Signals`` by service. A
source never invents a number and never raises because the world is silent: what it could not read
is None, with a note that says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from enova.policy.signals import Signals


@dataclass(frozen=True)
class ServiceTargets:
    """The engines of one service that should answer now: (instance id, ``host:port``) pairs.

    Leave out what is still starting: a service's sums are known only when every target answered.
    """

    service: str
    instances: tuple[tuple[str, str], ...]
    engine: str
    engine_version: str | None = None


@dataclass(frozen=True)
class GatewayTarget:
    """Where Envoy shows its counters: ``host:port``, or ``unix:`` and the admin socket's path."""

    endpoint: str
    path: str = "/metrics"


def admin_target(socket_path: str) -> GatewayTarget:
    """The counters through the gateway's admin socket, for a gateway without a metrics port."""
    return GatewayTarget(f"unix:{socket_path}", "/stats/prometheus")


class SignalSource(Protocol):
    """Reads the signals of services once."""

    @property
    def name(self) -> str:
        """The word for this source in ``Signals.source`` and in events."""
        ...

    def read(
        self,
        targets: Sequence[ServiceTargets],
        *,
        now: float,
        gateway: GatewayTarget | None = None,
    ) -> Mapping[str, Signals]:
        """Signals of every service asked for. ``now`` in seconds since the epoch."""
        ...

    def watch(
        self,
        targets: Sequence[ServiceTargets],
        *,
        now: float,
        gateway: GatewayTarget | None = None,
    ) -> None:
        """Note what the next ``read`` needs to know a rate at once: nobody asks for one now."""
        ...


class FirstAnswering:
    """Asks sources in order, the next one only while a service's arrival rate is still unknown.

    One that is not asked watches, so that it is not blind when it must answer. The rate decides
    because nothing is scaled without it. ``Signals.source`` says who answered, ``notes`` keep what
    the earlier sources lacked, so a fallback shows in status and journal.
    """

    name = "first-answering"

    def __init__(self, sources: Sequence[SignalSource]) -> None:
        if not sources:
            raise ValueError("at least one source is needed")
        self._sources = tuple(sources)

    def read(
        self,
        targets: Sequence[ServiceTargets],
        *,
        now: float,
        gateway: GatewayTarget | None = None,
    ) -> Mapping[str, Signals]:
        """Signals of every service, each from the first source that knows its arrival rate.

        When none does, the answer with most replicas read stays, the earlier source first.
        """
        found: dict[str, Signals] = {}
        left = list(targets)
        for source in self._sources:
            if not left:
                source.watch(targets, now=now, gateway=gateway)
                continue
            # All services, for a source forgets those that are gone.
            answers = source.read(targets, now=now, gateway=gateway)
            for service in [t.service for t in left if t.service in answers]:
                found[service] = _better(found.get(service), answers[service])
            left = [t for t in left if _unknown(found.get(t.service))]
        blank = {t.service: Signals(at_s=now, window_s=0.0, source=self.name) for t in targets}
        return {service: found.get(service, empty) for service, empty in sorted(blank.items())}


def _unknown(signals: Signals | None) -> bool:
    return signals is None or signals.arrival_rate is None


def _better(earlier: Signals | None, later: Signals) -> Signals:
    """The later answer when it knows more, with the notes of both."""
    if earlier is None:
        return later
    notes = (*earlier.notes, *later.notes)
    if later.arrival_rate is not None or _answered(later) > _answered(earlier):
        return replace(later, notes=notes)
    return replace(earlier, notes=notes)


def _answered(signals: Signals) -> int:
    return sum(1 for replica in signals.replicas.values() if replica.answered)
