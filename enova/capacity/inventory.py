"""What hardware there is: hosts with their devices, as effects found them or the spec states them.

A value. ``allotted`` says which devices are taken; the functions below place replicas by asking
what is left, and never change an inventory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

DeviceKind = Literal["gpu", "cpu"]

CPU = "cpu"
"""The device name of a host without GPUs that runs engines on its cores."""


@dataclass(frozen=True, order=True)
class Device:
    """One accelerator, or the cores of a host. ``name`` is a name of ``catalog.gpus`` or ``cpu``.

    ``memory_bytes`` is what the device reports as total. ``cores`` counts only for ``cpu``.
    """

    index: int
    name: str
    memory_bytes: int
    kind: DeviceKind = "gpu"
    uuid: str = ""
    cores: int = 0


@dataclass(frozen=True)
class Host:
    """One machine of the pool and its devices, in the order of their indices."""

    name: str
    devices: tuple[Device, ...]
    cores: int = 0
    memory_bytes: int = 0

    def of_type(self, name: str) -> tuple[Device, ...]:
        """Its devices of one type."""
        return tuple(device for device in self.devices if device.name == name)


@dataclass(frozen=True)
class Claim:
    """Devices of one host that one replica holds. On ``cpu`` devices it holds cores and memory."""

    owner: str
    host: str
    indices: tuple[int, ...]
    cores: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Inventory:
    """The pool. ``emulated``: the devices are pretended, no such hardware is there."""

    hosts: tuple[Host, ...]
    emulated: bool = False
    claims: tuple[Claim, ...] = field(default=())

    def host(self, name: str) -> Host | None:
        """The host of that name."""
        return next((host for host in self.hosts if host.name == name), None)


def device_types(inventory: Inventory) -> tuple[str, ...]:
    """The names of the device types in the pool, sorted."""
    return tuple(sorted({device.name for host in inventory.hosts for device in host.devices}))


def count(inventory: Inventory, device_type: str) -> int:
    """Devices of a type in the whole pool, taken or not."""
    return sum(len(host.of_type(device_type)) for host in inventory.hosts)


def most_per_host(inventory: Inventory, device_type: str) -> int:
    """The most devices of a type that one host has: the widest replica without a network."""
    return max((len(host.of_type(device_type)) for host in inventory.hosts), default=0)


def sample_device(inventory: Inventory, device_type: str) -> Device | None:
    """The device of that type with the least memory: what a replica can count on anywhere."""
    devices = [device for host in inventory.hosts for device in host.of_type(device_type)]
    return min(devices, key=lambda device: (device.memory_bytes, device.index), default=None)


def free_devices(host: Host, claims: Iterable[Claim], device_type: str) -> tuple[Device, ...]:
    """The host's GPUs of that type that no claim holds."""
    taken = {index for claim in claims if claim.host == host.name for index in claim.indices}
    return tuple(device for device in host.of_type(device_type) if device.index not in taken)


def free_cpu(host: Host, claims: Iterable[Claim]) -> tuple[int, int]:
    """Cores and memory bytes of the host that no claim holds. May be negative when overbooked."""
    mine = [claim for claim in claims if claim.host == host.name]
    cores = host.cores - sum(claim.cores for claim in mine)
    return cores, host.memory_bytes - sum(claim.memory_bytes for claim in mine)


def replica_slots(
    inventory: Inventory,
    device_type: str,
    *,
    devices_per_replica: int,
    memory_per_replica: int = 0,
    cores_per_replica: int = 1,
    claims: Sequence[Claim] | None = None,
) -> int:
    """How many more replicas of ``devices_per_replica`` devices on one host fit into the pool.

    On ``cpu`` devices, the limits are the host's cores and memory. ``claims`` default to those of
    the inventory.
    """
    held = inventory.claims if claims is None else claims
    slots = 0
    for host in inventory.hosts:
        if device_type != CPU:
            slots += len(free_devices(host, held, device_type)) // devices_per_replica
        elif host.of_type(CPU):
            cores, memory = free_cpu(host, held)
            fit = max(cores, 0) // max(1, cores_per_replica)
            if memory_per_replica > 0 and host.memory_bytes > 0:
                fit = min(fit, max(memory, 0) // memory_per_replica)
            slots += fit
    return slots


def from_plain(data: Mapping[str, object]) -> Inventory:
    """The inventory written by ``base.digest.plain``. Raises ValueError on another shape."""
    try:
        return Inventory(
            hosts=tuple(_host(item) for item in _sequence(data["hosts"])),
            emulated=bool(data.get("emulated", False)),
            claims=tuple(_claim(item) for item in _sequence(data.get("claims", ()))),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an inventory: {error}") from error


def _sequence(value: object) -> Sequence[Mapping[str, object]]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"a list is needed, not {value!r}")
    return value


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"an integer is needed, not {value!r}")
    return value


def _host(data: Mapping[str, object]) -> Host:
    return Host(
        name=str(data["name"]),
        devices=tuple(_device(item) for item in _sequence(data["devices"])),
        cores=_integer(data.get("cores", 0)),
        memory_bytes=_integer(data.get("memory_bytes", 0)),
    )


def _device(data: Mapping[str, object]) -> Device:
    return Device(
        index=_integer(data["index"]),
        name=str(data["name"]),
        memory_bytes=_integer(data["memory_bytes"]),
        kind="cpu" if data.get("kind") == "cpu" else "gpu",
        uuid=str(data.get("uuid", "")),
        cores=_integer(data.get("cores", 0)),
    )


def _claim(data: Mapping[str, object]) -> Claim:
    indices = data["indices"]
    if not isinstance(indices, (list, tuple)):
        raise TypeError("indices must be a list")
    return Claim(
        owner=str(data["owner"]),
        host=str(data["host"]),
        indices=tuple(_integer(index) for index in indices),
        cores=_integer(data.get("cores", 0)),
        memory_bytes=_integer(data.get("memory_bytes", 0)),
    )
