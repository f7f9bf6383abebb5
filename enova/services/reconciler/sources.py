"""Where a stack's signals come from: its Prometheus while that runs, otherwise its own pages."""

from __future__ import annotations

from enova.base import address as addresses
from enova.effects.sources.base import FirstAnswering, GatewayTarget, SignalSource
from enova.effects.sources.scrape import ScrapeSource
from enova.stack.observed import State
from enova.workflows.wiring import Site

RING = "samples.json"


def signal_source(here: Site) -> SignalSource:
    """Prometheus first when the stack has one; scraping answers for it when it is silent.

    Which one answered stands in ``Signals.source`` and, on a fallback, in ``Signals.notes``.
    """
    scrape = ScrapeSource(here.state.folder / RING)
    prometheus = here.driver.observe().component(addresses.PROMETHEUS)
    if prometheus is None or prometheus.state is State.EXITED or prometheus.endpoint is None:
        return scrape
    from enova.effects.sources.prometheus import PrometheusSource

    return FirstAnswering([PrometheusSource(f"http://{prometheus.endpoint}"), scrape])


def gateway_target(here: Site) -> GatewayTarget | None:
    """The gateway's counters as they can be read now."""
    endpoint = here.driver.gateway_metrics()
    return None if endpoint is None else GatewayTarget(endpoint)
