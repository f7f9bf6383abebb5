"""The pool as a value: what is there, what is taken, what still fits."""

from __future__ import annotations

import pytest

from enova.base.digest import plain
from enova.capacity.inventory import (
    CPU,
    Claim,
    Device,
    Host,
    Inventory,
    count,
    device_types,
    free_cpu,
    free_devices,
    from_plain,
    most_per_host,
    replica_slots,
    sample_device,
)

GIB = 2**30
BIG = Host("big", tuple(Device(i, "h100-sxm-80gb", 80 * GIB) for i in range(8)))
SMALL = Host("small", (Device(0, "h100-sxm-80gb", 64 * GIB), Device(1, "l4-24gb", 24 * GIB)))
PLAIN = Host("plain", (Device(0, CPU, 16 * GIB, "cpu", cores=4),), 4, 16 * GIB)
POOL = Inventory((BIG, SMALL, PLAIN))


def test_what_there_is() -> None:
    assert device_types(POOL) == ("cpu", "h100-sxm-80gb", "l4-24gb")
    assert count(POOL, "h100-sxm-80gb") == 9
    assert most_per_host(POOL, "h100-sxm-80gb") == 8
    smallest = sample_device(POOL, "h100-sxm-80gb")
    assert smallest is not None and smallest.memory_bytes == 64 * GIB
    assert sample_device(POOL, "a100") is None


def test_replicas_do_not_span_hosts() -> None:
    assert replica_slots(POOL, "h100-sxm-80gb", devices_per_replica=1) == 9
    assert replica_slots(POOL, "h100-sxm-80gb", devices_per_replica=4) == 2
    assert replica_slots(POOL, "h100-sxm-80gb", devices_per_replica=16) == 0


def test_claims_take_devices() -> None:
    claims = (Claim("chat/replica/0", "big", (0, 1, 2, 3, 4)),)
    assert [d.index for d in free_devices(BIG, claims, "h100-sxm-80gb")] == [5, 6, 7]
    slots = replica_slots(POOL, "h100-sxm-80gb", devices_per_replica=2, claims=claims)
    assert slots == 1


def test_a_processor_is_shared_by_cores_and_memory() -> None:
    claims = (Claim("a", "plain", (), cores=1, memory_bytes=4 * GIB),)
    assert free_cpu(PLAIN, claims) == (3, 12 * GIB)
    assert replica_slots(POOL, CPU, devices_per_replica=1, memory_per_replica=5 * GIB) == 3
    assert (
        replica_slots(POOL, CPU, devices_per_replica=1, memory_per_replica=5 * GIB, claims=claims)
        == 2
    )
    assert replica_slots(POOL, CPU, devices_per_replica=1, cores_per_replica=2) == 2


def test_an_inventory_survives_being_written() -> None:
    pool = Inventory((BIG, PLAIN), emulated=True, claims=(Claim("a", "big", (1,)),))
    data = plain(pool)
    assert isinstance(data, dict)
    assert from_plain(data) == pool
    with pytest.raises(ValueError, match="not an inventory"):
        from_plain({"hosts": [{"name": "x"}]})
