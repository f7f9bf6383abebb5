"""What a running Prometheus says of itself: its targets, rules and alerts, and any one query.

In: its address. Out: values. Deciding signals are read by ``prometheus``; this is for those who
look after the monitoring itself. ``Unreachable`` when it does not answer, ``RefusedQuery`` when it
does and will not have a query.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, cast

import httpx

from enova.base.errors import Unreachable
from enova.stack.emptiness import Evaluated, Scraped

TIMEOUT_S = 10.0
_NEVER = "0001-01-01"
"""How the time of an evaluation begins that has not been."""


class RefusedQuery(Exception):
    """Prometheus does not take a query; the text is its own."""


@dataclass(frozen=True)
class Value:
    """One series and its value now."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class AlertNow:
    """One alert that fires, or will when its wait is over. ``since``: as Prometheus writes it."""

    name: str
    state: str
    severity: str
    address: str
    summary: str
    since: str


class PrometheusApi:
    """Asks one Prometheus, over one connection while inside ``with``."""

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """``url`` such as ``http://127.0.0.1:9090``."""
        self.url = url.rstrip("/")
        self._client = httpx.Client(base_url=self.url, timeout=timeout_s, trust_env=False)

    def __enter__(self) -> PrometheusApi:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def query(self, text: str) -> tuple[Value, ...]:
        """The finite values of a query now. Raises RefusedQuery, Unreachable."""
        data = self._get("query", query=text)
        found = data["result"]
        if data["resultType"] == "scalar":
            found = [{"metric": {}, "value": found}]
        values = (Value(one["metric"], float(one["value"][1])) for one in found)
        return tuple(one for one in values if math.isfinite(one.value))

    def targets(self) -> tuple[Scraped, ...]:
        """What it reads, sorted by job, address and instance. Raises Unreachable."""
        found = [
            Scraped(
                job=one["labels"].get("job", ""),
                instance=one["labels"].get("instance", ""),
                address=one["labels"].get("address", ""),
                url=one["scrapeUrl"],
                up={"up": True, "down": False}.get(one["health"]),
                error=one["lastError"],
            )
            for one in self._get("targets", state="active")["activeTargets"]
        ]
        return tuple(sorted(found, key=lambda one: (one.job, one.address, one.instance)))

    def rules(self) -> tuple[Evaluated, ...]:
        """Its rules, recording and alerting, in their order. Raises Unreachable."""
        return tuple(
            Evaluated(
                name=rule["name"],
                evaluated=not rule.get("lastEvaluation", _NEVER).startswith(_NEVER),
                error=rule.get("lastError", ""),
            )
            for group in self._get("rules")["groups"]
            for rule in group["rules"]
        )

    def alerts(self) -> tuple[AlertNow, ...]:
        """Alerts that fire or are pending: pages first, then by name. Raises Unreachable."""
        found = [
            AlertNow(
                name=one["labels"].get("alertname", ""),
                state=one["state"],
                severity=one["labels"].get("severity", ""),
                address=one["labels"].get("address", ""),
                summary=one["annotations"].get("summary", ""),
                since=one.get("activeAt", ""),
            )
            for one in self._get("alerts")["alerts"]
        ]
        return tuple(sorted(found, key=lambda a: (a.state, a.severity, a.name, a.address)))

    def _get(self, what: str, **parameters: str) -> Any:  # noqa: ANN401  # JSON has any shape
        try:
            if what == "query":
                answer = self._client.post("/api/v1/query", data=parameters)
            else:
                answer = self._client.get(f"/api/v1/{what}", params=parameters)
            document = answer.json()
        except httpx.HTTPError as error:
            raise Unreachable(
                f"Prometheus at {self.url} does not answer: {error or type(error).__name__}"
            ) from error
        except ValueError as error:
            raise Unreachable(f"what answers at {self.url} is no Prometheus: {error}") from error
        if not isinstance(document, dict) or "status" not in document:
            raise Unreachable(f"what answers at {self.url} is no Prometheus")
        if document["status"] == "success":
            return cast(Any, document["data"])
        reason = str(document.get("error", f"HTTP {answer.status_code}"))
        if document.get("errorType") in ("bad_data", "execution"):
            raise RefusedQuery(reason)
        raise Unreachable(f"Prometheus at {self.url}: {reason}")
