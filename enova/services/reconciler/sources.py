"""Where a stack's signals come from: its Prometheus where that knows, otherwise its own pages.

A Prometheus that runs knows no arrival rate until it has watched a whole window of this gateway;
the gateway's page is watched beside it, so that it can answer at once.

In: a site; at each look, what was applied and what is observed. Out: ``Signals`` by service. Which
source answered stands in ``Signals.source`` and, on a fallback, in ``Signals.notes``.
"""

from __future__ import annotations

from collections.abc import Mapping

from enova.base import address as addresses
from enova.effects.sources.base import FirstAnswering, GatewayTarget
from enova.effects.sources.scrape import ScrapeSource
from enova.policy.signals import Signals
from enova.stack.observed import Observed, State
from enova.stack.plan import Ask
from enova.workflows.status import targets
from enova.workflows.wiring import Site

RING = "samples.json"


class SignalReader:
    """Reads one stack's signals, again at every look: its Prometheus may come and go."""

    def __init__(self, here: Site) -> None:
        self._here = here
        self._scrape = ScrapeSource(here.state.run_folder / RING)

    def read(self, applied: Ask, observed: Observed) -> Mapping[str, Signals]:
        """Signals of every service now."""
        endpoint = self._here.driver.gateway_metrics()
        return self._source(applied, observed).read(
            targets(applied, observed),
            now=self._here.clock.now(),
            gateway=GatewayTarget(endpoint) if endpoint is not None else None,
        )

    def _source(self, applied: Ask, observed: Observed) -> ScrapeSource | FirstAnswering:
        prometheus = observed.component(addresses.PROMETHEUS)
        if prometheus is None or prometheus.state is State.EXITED or prometheus.endpoint is None:
            return self._scrape
        from enova.effects.sources.prometheus import PrometheusSource, asking_every

        asking = asking_every(applied.spec.monitoring.scrape_interval)
        own = PrometheusSource(f"http://{prometheus.endpoint}", asking=asking)
        return FirstAnswering([own, self._scrape])
