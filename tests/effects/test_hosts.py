"""The pool as an inventory: stated, probed, pretended."""

from __future__ import annotations

import pytest

from enova.base.errors import Refused
from enova.capacity.inventory import Device
from enova.effects import hosts
from enova.effects.sources import nvml
from enova.effects.sources.nvml import Seen
from enova.spec.model import Pool

H100 = Device(0, "h100-sxm-80gb", 81559 * 2**20)


def none() -> Seen:
    return Seen(problem="no driver")


def two() -> Seen:
    return Seen((H100, Device(1, "h100-sxm-80gb", 81559 * 2**20)))


def pool(*devices: object, **host: object) -> Pool:
    return Pool.model_validate({"hosts": [{"name": "a", "devices": list(devices), **host}]})


def test_auto_without_gpus_is_the_processor() -> None:
    found = hosts.probe(Pool(), gpus=none)
    cores, memory = hosts.this_machine()
    (host,) = found.hosts
    assert (host.name, host.cores, host.memory_bytes) == ("local", cores, memory)
    assert [(d.kind, d.name, d.cores) for d in host.devices] == [("cpu", "cpu", cores)]
    assert not found.emulated


def test_auto_with_gpus_is_the_gpus() -> None:
    found = hosts.probe(Pool(), gpus=two)
    assert [d.index for d in found.hosts[0].devices] == [0, 1]
    assert not found.emulated


def test_stated_gpus_get_the_catalogs_facts_and_are_pretended_when_absent() -> None:
    found = hosts.probe(
        pool({"cpu": {"cores": 4, "memory": "8GiB"}}, {"gpu": "H100", "count": 2}), gpus=none
    )
    (host,) = found.hosts
    assert (host.cores, host.memory_bytes) == (4, 8 * 2**30)
    gpus = host.of_type("h100-sxm-80gb")
    assert [d.index for d in gpus] == [0, 1]
    assert gpus[0].memory_bytes > 70 * 2**30
    assert found.emulated


def test_stated_gpus_that_are_there_are_not_pretended() -> None:
    assert not hosts.probe(pool({"gpu": "h100-sxm-80gb", "count": 2}), gpus=two).emulated
    assert hosts.probe(pool({"gpu": "h100-sxm-80gb", "count": 3}), gpus=two).emulated


def test_an_unknown_gpu_is_refused_with_what_is_near() -> None:
    with pytest.raises(Refused, match=r'"h100-sxn-80gb" is known; did you mean h100-sxm-80gb'):
        hosts.probe(pool({"gpu": "h100-sxn-80gb"}), gpus=none)


def test_a_host_elsewhere_is_refused() -> None:
    with pytest.raises(Refused, match="host a has an address"):
        hosts.probe(pool({"gpu": "h100"}, address="10.0.0.9"), gpus=none)
    hosts.probe(pool({"gpu": "h100"}, address="localhost"), gpus=none)


def test_without_a_driver_the_reason_is_in_words() -> None:
    seen = nvml.gpus()
    if seen.devices:
        pytest.skip("this machine has NVIDIA GPUs")
    assert seen.problem is not None
    assert "NVIDIA driver" in seen.problem
