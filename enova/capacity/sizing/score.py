"""What a candidate costs for the whole service, and which of two is better.

Replicas come from the peak rate and the rate one replica serves, at the utilisation the scaler
plans for: so the scaler finds at the peak the very count that sizing wrote into the lock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from enova.capacity.catalog import prices
from enova.capacity.inventory import CPU
from enova.capacity.sizing.candidates import Candidate
from enova.policy.scaling import TARGET_UTILISATION

UNPRICED_PER_PFLOP = 3.0
"""USD/h for each dense bf16 PFLOP/s, to rank devices without a price. Never shown."""

UNPRICED_PER_CORE = 0.04


@dataclass(frozen=True)
class Cost:
    """One candidate at the peak. ``usd_per_hour`` None when a device has no price."""

    replicas: int
    usd_per_hour: float | None
    price_source: str
    rank: float


def replicas_for(peak_per_s: float, rate_per_replica: float, *, least: int) -> int:
    """Replicas that serve the peak with the scaler's headroom, at least one."""
    need = math.ceil(peak_per_s / (rate_per_replica * TARGET_UTILISATION) - 1e-9)
    return max(1, least, need)


def cost_of(candidate: Candidate, replicas: int, own_prices: Mapping[str, float]) -> Cost:
    """The cost of that many replicas. ``rank`` orders candidates, priced or not."""
    price = prices.price_of(candidate.device, own_prices)
    devices = replicas * candidate.devices
    if price is not None and devices:
        usd = price.usd_per_hour * devices
        return Cost(replicas, usd, price.source, usd)
    if candidate.device == CPU and candidate.cores:
        return Cost(replicas, None, "no price", replicas * candidate.cores * UNPRICED_PER_CORE)
    config = candidate.config
    ranks = config.layout.tensor_parallel * config.layout.pipeline_parallel
    rank = replicas * ranks * config.device.bf16_flops / 1e15 * UNPRICED_PER_PFLOP
    return Cost(replicas, None, "no price", rank)
