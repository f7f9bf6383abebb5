"""Signals without Prometheus: every engine's page and the gateway's, read and compared with before.

In: endpoints. Out: ``Signals`` over a window, computed from a small ring of samples. All pages are
asked at once; one that is slow, broken or silent costs its own numbers and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from enova.effects.sources import samples as maths
from enova.effects.sources.base import GatewayTarget, ServiceTargets
from enova.effects.sources.pages import engine_sample, gateway_samples
from enova.effects.sources.ring import SampleRing
from enova.effects.sources.samples import (
    EngineSample,
    GatewaySample,
    HistogramCounts,
    mean,
    total,
)
from enova.policy.signals import ReplicaSignals, Signals
from enova.stack import queries

LARGEST_PAGE = 16 * 2**20
"""Bytes; what sends more is no metrics page."""

_GATEWAY_STATS = r"^cluster\."


@dataclass(frozen=True)
class Windows:
    """Times in seconds. ``window_s``: what rates and quantiles cover when looks are frequent.

    A rate needs samples ``least_s`` apart; a look that comes after more than ``longest_s`` starts
    over. ``recent_s``: what the recent arrivals cover. ``timeout_s`` is the whole time one page may
    take.
    """

    window_s: float = 30.0
    recent_s: float = 10.0
    least_s: float = 8.0
    longest_s: float = 900.0
    timeout_s: float = 2.0


class ScrapeSource:
    """Reads metrics pages itself. One instance serves all looks of a process."""

    name = "scrape"

    def __init__(self, ring_path: Path | None = None, *, windows: Windows | None = None) -> None:
        """``ring_path`` keeps samples between processes; None forgets them."""
        self._windows = windows or Windows()
        self._ring = SampleRing(
            ring_path, window_s=self._windows.window_s, keep_s=self._windows.longest_s
        )

    def read(
        self,
        targets: Sequence[ServiceTargets],
        *,
        now: float,
        gateway: GatewayTarget | None = None,
    ) -> Mapping[str, Signals]:
        """Signals of every service."""
        pages, gateway_page = asyncio.run(self._fetch(targets, gateway))
        notes: dict[str, list[str]] = {target.service: [] for target in targets}
        for target in targets:
            self._take_engines(target, pages, notes[target.service], now=now)
        self._take_gateway(notes, gateway_page, origin=gateway.endpoint if gateway else "", now=now)
        self._keep(targets, notes)
        return {
            target.service: self._signals(target, notes[target.service], now=now)
            for target in sorted(targets, key=lambda t: t.service)
        }

    def watch(
        self,
        targets: Sequence[ServiceTargets],
        *,
        now: float,
        gateway: GatewayTarget | None = None,
    ) -> None:
        """Remember the gateway's counters: one page, however many engines there are."""
        _, page = asyncio.run(self._fetch((), gateway))
        notes: dict[str, list[str]] = {target.service: [] for target in targets}
        self._take_gateway(notes, page, origin=gateway.endpoint if gateway else "", now=now)
        self._keep(targets, notes)

    def _keep(self, targets: Sequence[ServiceTargets], notes: Mapping[str, list[str]]) -> None:
        """Forget what is gone and write the file."""
        self._ring.keep_only(
            {instance for target in targets for instance, _ in target.instances}, notes.keys()
        )
        try:
            self._ring.save()
        except OSError as error:
            # A full disk must not blind the reconciler: only the next process lacks these samples.
            for mine in notes.values():
                mine.append(f"samples were not kept on disk: {error}")

    async def _fetch(
        self, targets: Sequence[ServiceTargets], gateway: GatewayTarget | None
    ) -> tuple[dict[str, str | Exception], str | Exception]:
        """Pages by instance id, and the gateway's; where there is none, what went wrong."""
        limit = self._windows.timeout_s
        instances = [pair for target in targets for pair in target.instances]
        async with httpx.AsyncClient(timeout=limit, trust_env=False) as client:
            tasks = [
                _page(client, f"http://{endpoint}/metrics", limit) for _, endpoint in instances
            ]
            *engines, last = await asyncio.gather(*tasks, _gateway_page(client, gateway, limit))
        return dict(zip((name for name, _ in instances), engines, strict=True)), last

    def _take_engines(
        self,
        target: ServiceTargets,
        pages: Mapping[str, str | Exception],
        notes: list[str],
        *,
        now: float,
    ) -> None:
        try:
            families = queries.families(target.engine, target.engine_version)
        except ValueError as error:
            notes.append(str(error))
            return
        for instance, endpoint in target.instances:
            page = pages[instance]
            if not isinstance(page, str):
                notes.append(f"{instance} did not answer at {endpoint}: {_words(page)}")
                continue
            try:
                sample = engine_sample(page, families, at_s=now)
            except (ValueError, KeyError) as error:
                notes.append(f"{instance}: its page cannot be read: {error}")
                continue
            if sample.running is None and sample.waiting is None:
                notes.append(f"{instance}: its page has no numbers of {target.engine}")
                continue
            self._ring.add_engine(instance, sample)

    def _take_gateway(
        self, notes: Mapping[str, list[str]], page: str | Exception, *, origin: str, now: float
    ) -> None:
        found: Mapping[str, GatewaySample] = {}
        if isinstance(page, str):
            try:
                found = gateway_samples(page, notes.keys(), at_s=now, origin=origin)
                why = "does not know this service"
            except (ValueError, KeyError) as error:
                why = f"its page cannot be read: {error}"
        else:
            why = _words(page)
        for service, mine in notes.items():
            if service in found:
                self._ring.add_gateway(service, found[service])
            else:
                mine.append(f"gateway: {why}")

    def _signals(self, target: ServiceTargets, notes: list[str], *, now: float) -> Signals:
        replicas = {
            instance: _replica(self._ring.engines.get(instance, ()), now=now)
            for instance, _ in sorted(target.instances)
        }
        gateway = self._ring.gateway.get(target.service, ())
        counters, recent = self._chosen(gateway, now=now), self._recent(gateway, now=now)
        if not counters and self._fresh(target.service, now=now):
            notes.append("gateway: too few samples for a rate yet")
        whole = all(replica.answered for replica in replicas.values())
        engines = [
            self._chosen(self._ring.engines.get(instance, ()), now=now) for instance in replicas
        ]
        return Signals(
            at_s=now,
            window_s=_span(counters),
            arrival_rate=_arrivals(counters),
            recent_arrival_rate=_arrivals(recent),
            recent_s=_span(recent),
            success_rate=_success(counters),
            running=total([replica.running for replica in replicas.values()]),
            waiting=total([replica.waiting for replica in replicas.values()]),
            kv_usage=mean([replica.kv_usage for replica in replicas.values()]),
            ttft_p95=_p95([[s.ttft for s in engine] for engine in engines]) if whole else None,
            itl_p95=_p95([[s.itl for s in engine] for engine in engines]) if whole else None,
            e2e_p95=_p95([[s.e2e for s in engine] for engine in engines]) if whole else None,
            prompt_tokens_rate=_sum_known(
                [maths.rate(engine, lambda s: s.prompt_tokens) for engine in engines]
            )
            if whole
            else None,
            generation_tokens_rate=_sum_known(
                [maths.rate(engine, lambda s: s.generation_tokens) for engine in engines]
            )
            if whole
            else None,
            seconds_since_arrival=self._idle(target.service, now=now),
            replicas=replicas,
            source=self.name,
            notes=tuple(notes),
        )

    def _chosen(self, samples: Sequence[maths.S], *, now: float) -> Sequence[maths.S]:
        limits = self._windows
        return maths.in_window(
            samples,
            now=now,
            window_s=limits.window_s,
            least_s=limits.least_s,
            longest_s=limits.longest_s,
        )

    def _recent(self, samples: Sequence[GatewaySample], *, now: float) -> Sequence[GatewaySample]:
        """The last ``recent_s``, or up to twice as much where looks are rarer."""
        recent_s = self._windows.recent_s
        return maths.in_window(
            samples, now=now, window_s=recent_s, least_s=0.8 * recent_s, longest_s=2 * recent_s
        )

    def _fresh(self, service: str, *, now: float) -> bool:
        samples = self._ring.gateway.get(service, ())
        return bool(samples) and samples[-1].at_s == now

    def _idle(self, service: str, *, now: float) -> float | None:
        known = self._ring.arrivals.get(service)
        return now - known.last_s if known is not None and self._fresh(service, now=now) else None


def _replica(samples: Sequence[EngineSample], *, now: float) -> ReplicaSignals:
    if not samples or samples[-1].at_s != now:
        return ReplicaSignals(answered=False)
    last = samples[-1]
    return ReplicaSignals(last.running, last.waiting, last.kv_usage, last.steps, answered=True)


def _span(samples: Sequence[GatewaySample]) -> float:
    return samples[-1].at_s - samples[0].at_s if samples else 0.0


def _arrivals(counters: Sequence[GatewaySample]) -> float | None:
    first_and_more = maths.rate(counters, lambda s: s.attempts)
    retries = maths.rate(counters, lambda s: s.retries)
    if first_and_more is None or retries is None:
        return None
    return max(first_and_more - retries, 0.0)


def _success(counters: Sequence[GatewaySample]) -> float | None:
    completed = maths.increase([s.completed for s in counters])
    failed = maths.increase([s.failed for s in counters])
    if not completed or failed is None:
        return None
    return 1.0 - failed / completed


def _p95(engines: Sequence[Sequence[HistogramCounts | None]]) -> float | None:
    grown = [maths.histogram_increase(samples) for samples in engines]
    merged = maths.merge([histogram for histogram in grown if histogram is not None])
    return None if merged is None else maths.quantile(merged, 0.95)


def _sum_known(rates: Sequence[float | None]) -> float | None:
    """Over replicas that have a rate; one that has just started has none yet and adds nothing."""
    known = [value for value in rates if value is not None]
    return sum(known) if known else None


async def _gateway_page(
    client: httpx.AsyncClient, gateway: GatewayTarget | None, limit_s: float
) -> str | Exception:
    if gateway is None:
        return LookupError("there is none to ask")
    query = httpx.QueryParams({"filter": _GATEWAY_STATS})
    if not gateway.endpoint.startswith("unix:"):
        return await _page(client, f"http://{gateway.endpoint}{gateway.path}?{query}", limit_s)
    transport = httpx.AsyncHTTPTransport(uds=gateway.endpoint.removeprefix("unix:"))
    async with httpx.AsyncClient(transport=transport, timeout=limit_s) as own:
        return await _page(own, f"http://gateway{gateway.path}?{query}", limit_s)


async def _page(client: httpx.AsyncClient, url: str, limit_s: float) -> str | Exception:
    """The text of a page, or what prevented it. The limit holds for the whole answer."""
    try:
        async with asyncio.timeout(limit_s), client.stream("GET", url) as answer:
            answer.raise_for_status()
            parts = bytearray()
            async for part in answer.aiter_bytes():
                parts += part
                if len(parts) > LARGEST_PAGE:
                    return ValueError(f"the page is larger than {LARGEST_PAGE} bytes")
            return parts.decode()
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, UnicodeDecodeError) as error:
        return error


def _words(error: Exception) -> str:
    """What went wrong, on one line."""
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return "no complete answer in time"
    return (str(error) or type(error).__name__).splitlines()[0]
