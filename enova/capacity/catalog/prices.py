"""What a device costs per hour, and where that number comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enova.capacity.catalog import data, gpus


@dataclass(frozen=True)
class DevicePrice:
    """USD per hour for one device, with its source and date in words."""

    usd_per_hour: float
    source: str


def price_of(device: str, own: Mapping[str, float] | None = None) -> DevicePrice | None:
    """The price of one device; ``own`` prices win over the catalog's. None when neither has one."""
    name = gpus.canonical_name(device)
    for key, value in (own or {}).items():
        if gpus.canonical_name(key) == name:
            return DevicePrice(value, "your pool.prices")
    listed = data.read("prices")
    value = listed["usd_per_hour"].get(name)
    if value is None:
        return None
    return DevicePrice(value, f"{listed['source']}, {listed['date']}")
