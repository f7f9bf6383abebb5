"""Which host and devices a new replica gets, from what the inventory has and instances hold.

A value threaded through the scheduler: ``take`` returns a placement and the room left, ``free``
says what a planned stop will give back. Deterministic: the fullest host that still fits first, so
that wide replicas find room later; lowest free indices; what is free now before what will be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from enova.capacity.inventory import Host, Inventory
from enova.stack.observed import Placement
from enova.stack.resources import Needs


@dataclass(frozen=True)
class Freed:
    """What is given back once the action of this id is done."""

    placement: Placement
    action: int


@dataclass(frozen=True)
class Taken:
    """A placement, the actions that must be done before it is free, and the room left."""

    placement: Placement
    after: tuple[int, ...]
    room: Room


@dataclass(frozen=True)
class Room:
    """The inventory, what is held in it, and what the plan so far gives back."""

    inventory: Inventory
    held: tuple[Placement, ...] = ()
    freed: tuple[Freed, ...] = ()

    @classmethod
    def of(cls, inventory: Inventory, held: Iterable[Placement]) -> Room:
        """The room left by our own placements and by what others claim in the inventory."""
        foreign = [
            Placement(
                claim.host,
                gpus=claim.indices,
                cores=tuple(range(claim.cores)),
                memory_bytes=claim.memory_bytes,
            )
            for claim in inventory.claims
        ]
        return cls(inventory, (*held, *foreign))

    def free(self, placement: Placement, action: int) -> Room:
        """The room once a planned ``action`` gives ``placement`` back."""
        room = self.without(placement)
        return replace(room, freed=(*self.freed, Freed(placement, action)))

    def without(self, placement: Placement) -> Room:
        """The room as if ``placement`` were not held."""
        held = list(self.held)
        if placement in held:
            held.remove(placement)
        return replace(self, held=tuple(held))

    def take(self, needs: Needs) -> Taken | None:
        """A placement for ``needs``, None when no host has or will have it."""
        now = (*self.held, *(freed.placement for freed in self.freed))
        for held in (now, self.held):
            placement = self._place(needs, held)
            if placement is not None:
                after = () if held is now else self._awaited(placement)
                return Taken(placement, after, replace(self, held=(*self.held, placement)))
        return None

    def _place(self, needs: Needs, held: tuple[Placement, ...]) -> Placement | None:
        fitting = []
        for host in self.inventory.hosts:
            mine = [p for p in held if p.host == host.name]
            placement = _on(host, needs, mine)
            if placement is not None:
                fitting.append((_free_count(host, needs, mine), host.name, placement))
        return min(fitting, key=lambda entry: entry[:2])[2] if fitting else None

    def _awaited(self, placement: Placement) -> tuple[int, ...]:
        """The stops that must be done before ``placement`` is free."""
        return tuple(
            freed.action
            for freed in self.freed
            if freed.placement.host == placement.host
            and (
                set(freed.placement.gpus) & set(placement.gpus)
                or set(freed.placement.cores) & set(placement.cores)
                or (freed.placement.memory_bytes and placement.memory_bytes)
            )
        )


def _on(host: Host, needs: Needs, held: list[Placement]) -> Placement | None:
    if needs.gpus and needs.gpu_type is not None:
        taken = {index for p in held for index in p.gpus}
        free = [d.index for d in host.of_type(needs.gpu_type) if d.index not in taken]
        if len(free) < needs.gpus:
            return None
        return Placement(host.name, gpus=tuple(free[: needs.gpus]))
    if not host.cores:
        return None
    taken = {index for p in held for index in p.cores}
    cores = [index for index in range(host.cores) if index not in taken]
    memory = host.memory_bytes - sum(p.memory_bytes for p in held)
    if len(cores) < needs.cores or (needs.memory_bytes and memory < needs.memory_bytes):
        return None
    return Placement(host.name, cores=tuple(cores[: needs.cores]), memory_bytes=needs.memory_bytes)


def _free_count(host: Host, needs: Needs, held: list[Placement]) -> int:
    if needs.gpus and needs.gpu_type is not None:
        return len(host.of_type(needs.gpu_type)) - sum(len(p.gpus) for p in held)
    return host.cores - sum(len(p.cores) for p in held)
