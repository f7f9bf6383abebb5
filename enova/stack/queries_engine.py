"""PromQL over engines' pages: latencies, shares of a histogram, caches, steps.

In: metric families by the engine's version (``capacity.catalog``), services, a window. Out: query
texts by service, or by replica: instance and address. Nothing that did not happen is a number:
without a request there is no latency.
"""

from __future__ import annotations

from collections.abc import Iterable

from enova.stack.queries import INSTANCE_LABEL, SERVICE_LABEL
from enova.stack.render.prometheus import duration

ADDRESS_LABEL = "address"
SERVICE = SERVICE_LABEL
REPLICA = f"{SERVICE_LABEL}, {INSTANCE_LABEL}, {ADDRESS_LABEL}"
"""What series are told apart by."""


def total(name: str, services: Iterable[str], *, by: str = SERVICE) -> str:
    """A gauge or counter as it stands, summed."""
    return f"sum by ({by}) ({name}{_select(services)})"


def average(name: str, services: Iterable[str], *, by: str = SERVICE) -> str:
    """A gauge as it stands, its mean."""
    return f"avg by ({by}) ({name}{_select(services)})"


def rate(counter: str, services: Iterable[str], *, window_s: float, by: str = SERVICE) -> str:
    """Growth of a counter a second. ``counter`` with its ``_total`` or ``_count``."""
    return f"sum by ({by}) (rate({counter}{_select(services)}[{duration(window_s)}]))"


def quantile(histogram: str, services: Iterable[str], *, share: float, window_s: float) -> str:
    """Seconds that ``share`` of the observations do not exceed; absent without any."""
    inner = rate(f"{histogram}_bucket", services, window_s=window_s, by=f"le, {SERVICE}")
    return f"histogram_quantile({share:g}, {inner}) >= 0"


def mean(histogram: str, services: Iterable[str], *, window_s: float, by: str = SERVICE) -> str:
    """Mean observation; absent without any."""
    names = list(services)
    above = rate(f"{histogram}_sum", names, window_s=window_s, by=by)
    below = rate(f"{histogram}_count", names, window_s=window_s, by=by)
    return f"{above} / ({below} > 0)"


def share_of(part: str, whole: str, services: Iterable[str], *, window_s: float) -> str:
    """One counter's growth as a share of another's; absent while that stands still."""
    names = list(services)
    above = rate(part, names, window_s=window_s)
    return f"{above} / ({rate(whole, names, window_s=window_s)} > 0)"


def over(histogram: str, service: str, *, edges: tuple[float, ...], window_s: float) -> str:
    """Observations/s above the first of ``edges`` that a replica has; the others come after it.

    A replica started before a limit was set has no such edge and is counted at the next one.
    A replica with none of them is left out, above and below.
    """
    window = duration(window_s)
    at = [f"rate({histogram}_bucket{_edge(service, edge)}[{window}])" for edge in edges]
    within = at[0]
    for later in at[1:]:
        within = f"({within} or on ({INSTANCE_LABEL}) {later})"
    everything = f"rate({histogram}_count{_select([service])}[{window}])"
    counted = f"({everything} and on ({INSTANCE_LABEL}) {within})"
    return f"clamp_min(sum by ({SERVICE}) {counted} - sum by ({SERVICE}) ({within}), 0)"


def _edge(service: str, edge: float) -> str:
    # Engines write 2 as 2.0, others as 2.
    text = repr(float(edge)).removesuffix(".0").replace(".", "\\\\.").replace("+", "\\\\+")
    return f'{{{SERVICE_LABEL}="{service}", le=~"{text}(\\\\.0)?"}}'


def _select(services: Iterable[str]) -> str:
    return f'{{{SERVICE_LABEL}=~"{"|".join(sorted(services))}"}}'
