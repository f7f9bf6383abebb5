"""Which host and devices a new replica gets, from what the inventory has and instances hold.

A value that is threaded through the scheduler: ``take`` returns a placement and what is left,
``give`` returns what is free once something stopped. Deterministic: fullest host that still fits
first, so that large replicas find room later; lowest free indices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from enova.capacity.inventory import Host, Inventory
from enova.stack.observed import Placement
from enova.stack.resources import Needs


@dataclass(frozen=True)
class Room:
    """The inventory and everything that is held in it."""

    inventory: Inventory
    held: tuple[Placement, ...] = ()

    def give(self, placements: Iterable[Placement]) -> Room:
        """What is free once ``placements`` ended."""
        left = list(self.held)
        for placement in placements:
            if placement in left:
                left.remove(placement)
        return Room(self.inventory, tuple(left))

    def take(self, needs: Needs) -> tuple[Placement, Room] | None:
        """A placement for ``needs`` and the room left, None when no host has it."""
        fitting = []
        for host in self.inventory.hosts:
            placement = self._on(host, needs)
            if placement is not None:
                fitting.append((self._free_share(host, needs), host.name, placement))
        if not fitting:
            return None
        placement = min(fitting, key=_first_two)[2]
        return placement, Room(self.inventory, (*self.held, placement))

    def _on(self, host: Host, needs: Needs) -> Placement | None:
        held = [p for p in self.held if p.host == host.name]
        if needs.gpus and needs.gpu_type is not None:
            taken = {index for p in held for index in p.gpus}
            free = [d.index for d in host.of_type(needs.gpu_type) if d.index not in taken]
            if len(free) < needs.gpus:
                return None
            return Placement(host.name, gpus=tuple(free[: needs.gpus]))
        if not host.cores:
            return None
        taken_cores = {index for p in held for index in p.cores}
        cores = [index for index in range(host.cores) if index not in taken_cores]
        memory = host.memory_bytes - sum(p.memory_bytes for p in held)
        if len(cores) < needs.cores or (needs.memory_bytes and memory < needs.memory_bytes):
            return None
        return Placement(
            host.name, cores=tuple(cores[: needs.cores]), memory_bytes=needs.memory_bytes
        )

    def _free_share(self, host: Host, needs: Needs) -> int:
        held = [p for p in self.held if p.host == host.name]
        if needs.gpus and needs.gpu_type is not None:
            return len(host.of_type(needs.gpu_type)) - sum(len(p.gpus) for p in held)
        return host.cores - sum(len(p.cores) for p in held)


def _first_two(entry: tuple[int, str, Placement]) -> tuple[int, str]:
    return entry[0], entry[1]
