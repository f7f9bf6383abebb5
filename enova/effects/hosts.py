"""The pool's hosts and devices: as the spec states them, probed where it says ``auto``.

In: the spec's pool. Out: an ``Inventory``. On the process target every host of the pool is this
machine; declared GPUs the driver does not show are pretended, and the inventory says so.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from enova.base.errors import Refused
from enova.capacity.catalog import gpus as catalog
from enova.capacity.inventory import CPU, Device, Host, Inventory
from enova.effects.sources import nvml
from enova.spec import model as spec

_MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def probe(
    pool: spec.Pool,
    *,
    gpus: Callable[[], nvml.Seen] = nvml.gpus,
    machine: Callable[[], tuple[int, int]] | None = None,
) -> Inventory:
    """The inventory of the pool. Raises Refused for a host that is not this machine.

    ``machine`` says its cores and bytes of memory; left out, those this process may use.
    """
    remote = [host.name for host in pool.hosts if host.address not in (None, *_HERE)]
    if remote:
        raise Refused(
            f"target {pool.target} runs everything on this machine, but host {remote[0]} has an "
            "address. Leave pool.hosts out, or use another target"
        )
    seen, has = gpus(), (machine or this_machine)()
    present = Counter(device.name for device in seen.devices)
    hosts = [
        _auto(host.name, seen, has) if host.devices == "auto" else _declared(host, has)
        for host in pool.hosts
    ]
    declared = Counter(
        device.name for host in hosts for device in host.devices if device.kind == "gpu"
    )
    return Inventory(
        hosts=tuple(hosts), emulated=any(declared[name] > present[name] for name in declared)
    )


_HERE = ("localhost", "127.0.0.1", "::1")


def this_machine() -> tuple[int, int]:
    """Cores this process may use, and bytes of memory, of the machine or its container."""
    memory = psutil.virtual_memory().total
    for path in _MEMORY_LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            memory = min(memory, int(text))
    return len(os.sched_getaffinity(0)), memory


def _auto(name: str, seen: nvml.Seen, has: tuple[int, int]) -> Host:
    cores, memory = has
    devices: Sequence[Device] = seen.devices
    if not devices:
        devices = [Device(0, CPU, memory, kind="cpu", cores=cores)]
    return Host(name=name, devices=tuple(devices), cores=cores, memory_bytes=memory)


def _declared(host: spec.Host, has: tuple[int, int]) -> Host:
    """Devices as written: GPUs are numbered from 0 in the order of the list."""
    devices: list[Device] = []
    cores, memory = has
    for entry in host.devices:
        if isinstance(entry, str):
            continue
        if entry.cpu is not None:
            cores, memory = entry.cpu.cores, int(entry.cpu.memory)
            devices.append(Device(0, CPU, memory, kind="cpu", cores=cores))
        if entry.gpu is not None:
            facts = catalog.find(entry.gpu)
            if facts is None:
                near = ", ".join(catalog.nearest(entry.gpu))
                raise Refused(
                    f'host {host.name}: no GPU type "{entry.gpu}" is known'
                    + (f"; did you mean {near}?" if near else "")
                )
            first = sum(device.kind == "gpu" for device in devices)
            devices += [
                Device(first + index, facts.name, facts.memory_bytes)
                for index in range(entry.count)
            ]
    return Host(name=host.name, devices=tuple(devices), cores=cores, memory_bytes=memory)
