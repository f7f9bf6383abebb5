"""What replicas cost by the hour, and how many a budget allows.

In: choices and counts. Out: USD per hour, None where a device has no price. Prices are those the
choice was made with: the spec's own, otherwise the catalog's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from enova.capacity.sizing.choice import Choice

ROUNDING = 1e-9


def per_replica(choice: Choice) -> float | None:
    """USD per hour of one replica."""
    if choice.usd_per_hour is None or choice.replicas < 1:
        return None
    return choice.usd_per_hour / choice.replicas


def per_hour(choices: Mapping[str, Choice], counts: Mapping[str, int]) -> float | None:
    """USD per hour of all replicas; None when a running service has no price."""
    total = 0.0
    for name, count in counts.items():
        choice = choices.get(name)
        price = per_replica(choice) if choice is not None else None
        if price is None:
            if count:
                return None
            continue
        total += count * price
    return total


def affordable(
    service: str,
    *,
    choices: Mapping[str, Choice],
    counts: Mapping[str, int],
    budget: float | None,
) -> int | None:
    """Replicas of ``service`` that fit a budget beside what the others have; None: no bound."""
    choice = choices.get(service)
    price = per_replica(choice) if choice is not None else None
    if budget is None or not price:
        return None
    others = {name: count for name, count in counts.items() if name != service}
    spent = per_hour(choices, others) or 0.0
    return max(0, math.floor((budget - spent) / price + ROUNDING))
