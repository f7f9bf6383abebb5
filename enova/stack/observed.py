"""What runs now, as a driver saw it: a snapshot in which nothing was decided.

Everything in it is ours: drivers report only what carries this stack's own mark, so nothing
downstream can touch what belongs to somebody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from enova.stack.resources import Fields


class State(StrEnum):
    """What an instance or component is doing."""

    STARTING = "starting"
    SERVING = "serving"
    UNHEALTHY = "unhealthy"
    """Runs, served before, and does not answer now."""
    EXITED = "exited"
    UNKNOWN = "unknown"
    """Its host did not answer."""


@dataclass(frozen=True)
class Placement:
    """Where something runs and what it holds there: GPU indices, core indices, memory."""

    host: str
    gpus: tuple[int, ...] = ()
    cores: tuple[int, ...] = ()
    memory_bytes: int = 0


@dataclass(frozen=True)
class Instance:
    """One engine process or container in a slot. ``fields`` are those it was started with."""

    id: str
    address: str
    digest: str
    fields: Fields
    placement: Placement
    state: State
    endpoint: str | None = None
    """``host:port``."""
    exit_reason: str | None = None
    tampered: tuple[str, ...] = ()
    """What differs between how it was started and how it runs now, in words."""


@dataclass(frozen=True)
class Component:
    """The gateway or a monitor: at most one at an address, except while one replaces the other."""

    id: str
    address: str
    digest: str
    fields: Fields
    state: State
    endpoint: str | None = None
    exit_reason: str | None = None
    tampered: tuple[str, ...] = ()


@dataclass(frozen=True)
class Member:
    """One line of the gateway's membership: an instance with its weight."""

    instance: str
    endpoint: str
    weight: int
    draining: bool = False


@dataclass(frozen=True)
class Observed:
    """All that was seen, sorted by address then id. ``members`` is by service."""

    instances: tuple[Instance, ...] = ()
    components: tuple[Component, ...] = ()
    members: Mapping[str, tuple[Member, ...]] = field(default_factory=dict)
    unreachable_hosts: tuple[str, ...] = ()

    def instance(self, instance_id: str) -> Instance | None:
        """The instance of that id."""
        return next((i for i in self.instances if i.id == instance_id), None)

    def component(self, address: str) -> Component | None:
        """The live component at an address, else an exited one, else None."""
        found = [c for c in self.components if c.address == address]
        found.sort(key=lambda c: c.state == State.EXITED)
        return found[0] if found else None

    def of_service(self, service: str) -> tuple[Instance, ...]:
        """Instances of a service."""
        return tuple(i for i in self.instances if i.address.split("/", 1)[0] == service)
