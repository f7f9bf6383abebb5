"""Signals from Prometheus: one instant query a signal, for all services of a stack at once.

In: services and the queries of ``stack.queries``. Out: ``Signals``. When Prometheus does not
answer, everything is None and a note says so; whether to ask another source is not decided here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import requests
from prometheus_api_client.exceptions import PrometheusApiClientException
from prometheus_api_client.prometheus_connect import PrometheusConnect
from urllib3.util.retry import Retry

from enova.effects.sources.base import GatewayTarget, ServiceTargets
from enova.effects.sources.samples import mean, total
from enova.policy.signals import ReplicaSignals, Signals
from enova.stack import queries
from enova.stack.queries import CLUSTER_LABEL, INSTANCE_LABEL, SERVICE_LABEL, Family

_By = Mapping[tuple[str, ...], float]


@dataclass(frozen=True)
class Asking:
    """Times in seconds. ``window_s`` and ``recent_s`` must hold at least two scrapes.

    What Prometheus read longer than ``stale_s`` ago counts as not known. ``timeout_s`` bounds one
    query, ``deadline_s`` all of a look. ``lookback_s`` bounds how long an idle time can be seen.
    """

    window_s: float = 30.0
    recent_s: float = 10.0
    stale_s: float = 15.0
    lookback_s: float = 3600.0
    timeout_s: float = 2.0
    deadline_s: float = 5.0


def asking_every(scrape_interval_s: float) -> Asking:
    """Times that suit a Prometheus which reads its targets this often."""
    return Asking(
        window_s=max(Asking.window_s, 4 * scrape_interval_s),
        # Whole intervals, so that so much time lies between the two readings.
        recent_s=scrape_interval_s * max(2, math.ceil(Asking.recent_s / scrape_interval_s)),
        stale_s=max(Asking.stale_s, 2.5 * scrape_interval_s),
    )


@dataclass
class _Answers:
    """What one look found, by signal, service and instance."""

    arrival_rate: _By = field(default_factory=dict)
    recent_arrival_rate: _By = field(default_factory=dict)
    success_rate: _By = field(default_factory=dict)
    gateway_age: _By = field(default_factory=dict)
    idle: _By = field(default_factory=dict)
    by_family: dict[Family, dict[tuple[str, ...], float]] = field(default_factory=dict)


class PrometheusSource:
    """Asks one Prometheus. Its targets carry the labels of ``stack.render.prometheus``."""

    name = "prometheus"

    def __init__(self, url: str, *, asking: Asking | None = None) -> None:
        """``url`` such as ``http://127.0.0.1:9090``."""
        self._url = url.rstrip("/")
        self._asking = asking or Asking()

    def read(
        self,
        targets: Sequence[ServiceTargets],
        *,
        now: float,
        gateway: GatewayTarget | None = None,
    ) -> Mapping[str, Signals]:
        """Signals of every service. ``gateway`` is not used: Prometheus reads it by itself."""
        notes: dict[str, list[str]] = {target.service: [] for target in targets}
        answers = _Answers()
        try:
            self._ask_all(targets, answers, notes)
        except _Silent as silent:
            answers = _Answers()
            for mine in notes.values():
                mine.append(str(silent))
        return {
            target.service: self._signals(target, answers, notes[target.service], now=now)
            for target in sorted(targets, key=lambda t: t.service)
        }

    def watch(
        self,
        targets: Sequence[ServiceTargets],
        *,
        now: float,
        gateway: GatewayTarget | None = None,
    ) -> None:
        """Nothing to do: Prometheus watches by itself."""

    def _ask_all(
        self,
        targets: Sequence[ServiceTargets],
        answers: _Answers,
        notes: Mapping[str, list[str]],
    ) -> None:
        """Fill ``answers``. Raises _Silent when any query fails: half a picture is none."""
        if not targets:
            return
        asking, services = self._asking, sorted(notes)
        with _Connection(self._url, asking) as ask:
            answers.gateway_age = ask(queries.gateway_age(services), (CLUSTER_LABEL,))
            answers.arrival_rate = ask(
                queries.arrival_rate(services, window_s=asking.window_s), (CLUSTER_LABEL,)
            )
            answers.recent_arrival_rate = ask(
                queries.arrival_rate(services, window_s=asking.recent_s), (CLUSTER_LABEL,)
            )
            answers.success_rate = ask(
                queries.success_rate(services, window_s=asking.window_s), (CLUSTER_LABEL,)
            )
            answers.idle = ask(
                queries.seconds_since_arrival(services, lookback_s=asking.lookback_s),
                (CLUSTER_LABEL,),
            )
            for names, same in _by_families(targets, notes):
                self._ask_engines(ask, names, same, answers)

    def _ask_engines(
        self,
        ask: _Connection,
        names: Mapping[Family, str],
        services: Sequence[str],
        answers: _Answers,
    ) -> None:
        asking = self._asking
        per_replica = (SERVICE_LABEL, INSTANCE_LABEL)
        for what, name in names.items():
            if what in queries.HISTOGRAMS:
                text = queries.latency_quantile(
                    what, name, services, share=0.95, window_s=asking.window_s
                )
                found = ask(text, (SERVICE_LABEL,))
            elif what in queries.COUNTERS:
                text = queries.token_rate(what, name, services, window_s=asking.window_s)
                found = ask(text, (SERVICE_LABEL,))
            else:
                text = queries.replica_value(what, name, services, stale_s=asking.stale_s)
                found = ask(text, per_replica)
            answers.by_family.setdefault(what, {}).update(found)

    def _signals(
        self, target: ServiceTargets, answers: _Answers, notes: list[str], *, now: float
    ) -> Signals:
        service = target.service
        replicas = {
            instance: self._replica(answers, service, instance)
            for instance, _ in sorted(target.instances)
        }
        silent = [instance for instance, replica in replicas.items() if not replica.answered]
        age = answers.gateway_age.get((service,))
        fresh = age is not None and age < self._asking.stale_s
        if not notes:
            if silent:
                notes.append(f"no fresh numbers of {', '.join(silent)}")
            if not fresh:
                notes.append("gateway: no fresh numbers")
            elif (service,) not in answers.arrival_rate:
                notes.append("gateway: too few samples for a rate yet")

        def at_gateway(found: _By) -> float | None:
            return found.get((service,)) if fresh else None

        def of_engines(family: Family) -> float | None:
            return None if silent else answers.by_family.get(family, {}).get((service,))

        return Signals(
            at_s=now,
            window_s=self._asking.window_s,
            arrival_rate=at_gateway(answers.arrival_rate),
            recent_arrival_rate=at_gateway(answers.recent_arrival_rate),
            recent_s=self._asking.recent_s,
            success_rate=at_gateway(answers.success_rate),
            running=total([replica.running for replica in replicas.values()]),
            waiting=total([replica.waiting for replica in replicas.values()]),
            kv_usage=mean([replica.kv_usage for replica in replicas.values()]),
            ttft_p95=of_engines("ttft"),
            itl_p95=of_engines("itl"),
            e2e_p95=of_engines("e2e"),
            prompt_tokens_rate=of_engines("prompt_tokens"),
            generation_tokens_rate=of_engines("generation_tokens"),
            seconds_since_arrival=at_gateway(answers.idle),
            replicas=replicas,
            source=self.name,
            notes=tuple(notes),
        )

    def _replica(self, answers: _Answers, service: str, instance: str) -> ReplicaSignals:
        def value(family: Family) -> float | None:
            return answers.by_family.get(family, {}).get((service, instance))

        running, waiting = value("running"), value("waiting")
        return ReplicaSignals(
            running=running,
            waiting=waiting,
            kv_usage=value("kv_usage"),
            steps=value("steps"),
            answered=running is not None or waiting is not None,
        )


class _Silent(Exception):
    """Prometheus gave no usable answer; the text says how."""


class _Connection:
    """Queries within one deadline."""

    def __init__(self, url: str, asking: Asking) -> None:
        session = requests.Session()
        session.trust_env = False
        self._client = PrometheusConnect(
            url=url,
            session=session,
            retry=Retry(total=0),
            timeout=asking.timeout_s,  # type: ignore[arg-type]  # requests takes fractions too
        )
        self._url = url
        self._end = time.monotonic() + asking.deadline_s

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def __call__(self, query: str, labels: Iterable[str]) -> dict[tuple[str, ...], float]:
        """Finite values by the values of ``labels``. Raises _Silent."""
        if time.monotonic() >= self._end:
            raise _Silent(f"prometheus at {self._url} takes too long")
        names = tuple(labels)
        try:
            found = self._client.custom_query(query)
            values = {
                tuple(str(entry["metric"].get(name, "")) for name in names): float(
                    entry["value"][1]
                )
                for entry in found
            }
        except requests.RequestException as error:
            # The library's text repeats the whole query in the address.
            raise _Silent(
                f"prometheus at {self._url} did not answer: {type(error).__name__}"
            ) from error
        except PrometheusApiClientException as error:
            raise _Silent(f"prometheus at {self._url} refused a query: {error}") from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise _Silent(f"prometheus at {self._url} sent no query result: {error!r}") from error
        return {key: value for key, value in values.items() if math.isfinite(value)}


def _by_families(
    targets: Sequence[ServiceTargets], notes: Mapping[str, list[str]]
) -> list[tuple[Mapping[Family, str], list[str]]]:
    """Services that share metric names together: they share queries."""
    groups: dict[tuple[tuple[Family, str], ...], list[str]] = {}
    for target in sorted(targets, key=lambda t: t.service):
        try:
            names = queries.families(target.engine, target.engine_version)
        except ValueError as error:
            notes[target.service].append(str(error))
            continue
        groups.setdefault(tuple(names.items()), []).append(target.service)
    return [(dict(names), services) for names, services in sorted(groups.items())]
