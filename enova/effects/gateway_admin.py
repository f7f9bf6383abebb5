"""Envoy's admin interface: what the gateway does now, and waiting until it does what was asked.

In: the unix socket (or loopback port) of one gateway process. Out: typed counters. Membership
is written to a file (``effects.gateway``); here one learns when Envoy has taken it and when an
instance has no open request left, which is when it may be stopped.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enova.base.errors import Unreachable
from enova.stack.render.envoy import CLUSTERS, LISTENERS, ROUTES
from enova.stack.render.envoy_members import Member

_POLL_S = 0.05
_HOLD_S = 0.1

_VERSIONS = {
    CLUSTERS: r"^cluster_manager\.cds\.version_text$",
    LISTENERS: r"^listener_manager\.lds\.version_text$",
    ROUTES: r"^http\.gateway\.rds\..*\.version_text$",
}


@dataclass(frozen=True)
class EndpointStats:
    """One member as Envoy sees it now. ``healthy``: it would get a new request."""

    instance_id: str
    host: str
    port: int
    weight: int
    priority: int
    rq_active: int
    rq_total: int
    rq_error: int
    healthy: bool
    draining: bool


@dataclass(frozen=True)
class RequestTotals:
    """Counters of one service since this gateway process started.

    ``arrivals`` are requests sent towards the service, each once however often it was tried,
    refused ones included: the demand. ``refused`` found no replica or no room. Not counted are
    requests refused while every member drains, for which Envoy keeps no counter.
    """

    arrivals: int
    retries: int
    refused: int
    active: int
    pending: int


@dataclass(frozen=True)
class ServerLoad:
    """What clients have open at this gateway process."""

    connections: int
    requests: int


class GatewayAdmin:
    """The admin interface of one gateway process. Raises Unreachable when it does not answer."""

    def __init__(
        self, socket_path: Path | None = None, *, port: int | None = None, timeout_s: float = 5.0
    ) -> None:
        if (socket_path is None) == (port is None):
            raise ValueError("give either the admin socket or the admin port")
        self._where = str(socket_path) if socket_path is not None else f"127.0.0.1:{port}"
        self._socket_path = socket_path
        self._port = port
        self._timeout_s = timeout_s

    def ready(self) -> bool:
        """Whether the process answers and has loaded everything it needs to serve."""
        try:
            return self._exchange("GET", "/ready")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def endpoint_stats(self, service: str) -> tuple[EndpointStats, ...]:
        """The members of one service, sorted by instance id; none for an unknown service."""
        found = []
        for cluster in json.loads(self._get("/clusters?format=json")).get("cluster_statuses", []):
            if cluster["name"] != service:
                continue
            for host in cluster.get("host_statuses", []):
                found.append(_endpoint(host))
        return tuple(sorted(found, key=lambda e: (e.instance_id, e.host, e.port)))

    def request_totals(self) -> dict[str, RequestTotals]:
        """Counters by service. They start at zero in a new process."""
        wanted = "|".join((*_COUNTED, *_REFUSED, *_GAUGES))
        text = self._get(f"/stats?filter=^cluster\\..*\\.({wanted})$")
        by_service: dict[str, dict[str, int]] = {}
        for line in text.splitlines():
            match = _STAT.match(line)
            if match and not match["service"].startswith("enova_"):
                by_service.setdefault(match["service"], {})[match["name"]] = int(match["value"])
        return {name: _totals(stats) for name, stats in sorted(by_service.items())}

    def server_load(self) -> ServerLoad:
        """Open connections and requests of clients."""
        text = self._get(r"/stats?filter=^http\.gateway\.downstream_(cx|rq)_active$")
        values = dict(line.split(": ") for line in text.splitlines() if ": " in line)
        return ServerLoad(
            connections=int(values.get("http.gateway.downstream_cx_active", 0)),
            requests=int(values.get("http.gateway.downstream_rq_active", 0)),
        )

    def drain_listeners(self) -> None:
        """Stop accepting now, and let clients reconnect elsewhere as their requests end."""
        self._ask("POST", "/drain_listeners")
        self._ask("POST", "/healthcheck/fail")

    def reopen_logs(self) -> None:
        """Open the access log by name again, after it was renamed."""
        self._ask("POST", "/reopen_logs")

    def wait_ready(self, deadline_s: float) -> bool:
        """Whether the process serves within ``deadline_s`` seconds."""
        return _wait(self.ready, deadline_s)

    def wait_applied(
        self, service: str, members: Iterable[Member], *, deadline_s: float, healthy: bool = False
    ) -> bool:
        """Whether Envoy's members become exactly these within ``deadline_s`` seconds.

        With ``healthy`` also until every serving member has passed its health check.
        """
        wanted = {
            (m.instance_id, m.host, m.port, max(1, m.weight), m.priority, not m.serves)
            for m in members
        }

        def applied() -> bool:
            stats = self.endpoint_stats(service)
            have = {
                (e.instance_id, e.host, e.port, e.weight, e.priority, e.draining) for e in stats
            }
            return have == wanted and (
                not healthy or all(e.healthy for e in stats if not e.draining)
            )

        return _wait(applied, deadline_s)

    def wait_idle(self, service: str, instance_id: str, *, deadline_s: float) -> bool:
        """Whether a draining (or removed) instance has no open request within ``deadline_s``.

        It must look quiet for a moment: a worker may have picked the instance just before it
        learned of the drain. An instance that is not listed has nothing that can be counted.
        While two gateway processes run, ask both.
        """
        quiet_since: float | None = None

        def idle() -> bool:
            nonlocal quiet_since
            now = time.monotonic()
            endpoints = self.endpoint_stats(service)
            if any(e.rq_active for e in endpoints if e.instance_id == instance_id):
                quiet_since = None
                return False
            quiet_since = now if quiet_since is None else quiet_since
            return now - quiet_since >= _HOLD_S

        return _wait(idle, deadline_s)

    def wait_quiet(self, *, deadline_s: float) -> bool:
        """Whether no client has an open request within ``deadline_s`` seconds."""
        return _wait(lambda: self.server_load().requests == 0, deadline_s)

    def rejections(self) -> int:
        """How many configuration updates Envoy has refused so far."""
        text = self._get(r"/stats?filter=(lds|cds|rds\..*)\.update_rejected$")
        return sum(int(line.rpartition(" ")[2]) for line in text.splitlines() if ": " in line)

    def rejection_reasons(self) -> list[str]:
        """Why Envoy refuses what is in its files now; empty when it took everything."""
        found: list[str] = []
        for config in json.loads(self._get("/config_dump")).get("configs", []):
            for items in config.values():
                for item in items if isinstance(items, list) else ():
                    details = item.get("error_state", {}).get("details")
                    if details:
                        found.append(str(details))
        return sorted(found)

    def wait_version(self, file: str, version: str, *, rejected: int, deadline_s: float) -> bool:
        """Whether Envoy serves this version of ``clusters.json`` and the like by the deadline.

        Gives up early when more than ``rejected`` updates have been refused.
        """
        stat = _VERSIONS[file]

        def settled() -> bool:
            return self._version(stat) == version or self.rejections() > rejected

        return _wait(settled, deadline_s) and self._version(stat) == version

    def _version(self, stat: str) -> str:
        lines = self._get(f"/stats?type=TextReadouts&filter={stat}").splitlines()
        return lines[0].partition(": ")[2].strip('"') if lines else ""

    def _get(self, path: str) -> str:
        return self._ask("GET", path)

    def _ask(self, method: str, path: str) -> str:
        try:
            status, text = self._exchange(method, path)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"the gateway's admin interface at {self._where} does not answer: {error}"
            ) from error
        if status != 200:
            raise Unreachable(f"the gateway's admin interface answered {status}: {text.strip()}")
        return text

    def _exchange(self, method: str, path: str) -> tuple[int, str]:
        connection: http.client.HTTPConnection = (
            _UnixConnection(self._socket_path, timeout=self._timeout_s)
            if self._socket_path is not None
            else http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout_s)
        )
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, *, timeout: float) -> None:
        super().__init__("gateway", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            raise
        self.sock = connection


_COUNTED = ("upstream_rq_total", "upstream_rq_retry")
_REFUSED = ("upstream_cx_none_healthy", "upstream_rq_pending_overflow")
_GAUGES = ("upstream_rq_active", "upstream_rq_pending_active")
_OUT_OF_ROTATION = (
    "failed_active_health_check",
    "failed_outlier_check",
    "pending_active_hc",
    "pending_dynamic_removal",
)
_STAT = re.compile(r"^cluster\.(?P<service>[^.]+)\.(?P<name>[a-z_]+): (?P<value>[0-9]+)$")


def _totals(stats: dict[str, int]) -> RequestTotals:
    refused = sum(stats.get(name, 0) for name in _REFUSED)
    retries = stats.get("upstream_rq_retry", 0)
    return RequestTotals(
        arrivals=stats.get("upstream_rq_total", 0) - retries + refused,
        retries=retries,
        refused=refused,
        active=stats.get("upstream_rq_active", 0),
        pending=stats.get("upstream_rq_pending_active", 0),
    )


def _endpoint(host: dict[str, Any]) -> EndpointStats:
    """Envoy leaves out what is zero or false."""
    socket = host["address"].get("socket_address", {})
    stats = {entry["name"]: int(entry.get("value", 0)) for entry in host["stats"]}
    health = host["health_status"]
    draining = health.get("eds_health_status") == "DRAINING"
    out = draining or any(health.get(flag, False) for flag in _OUT_OF_ROTATION)
    return EndpointStats(
        instance_id=host.get("hostname", ""),
        host=socket.get("address", ""),
        port=int(socket.get("port_value", 0)),
        weight=int(host.get("weight", 1)),
        priority=int(host.get("priority", 0)),
        rq_active=stats.get("rq_active", 0) + stats.get("rq_pending_active", 0),
        rq_total=stats.get("rq_total", 0),
        rq_error=stats.get("rq_error", 0),
        healthy=not out,
        draining=draining,
    )


def _wait(condition: Callable[[], bool], deadline_s: float) -> bool:
    """Look until the condition holds: the admin interface has no events to wait for."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL_S)
    return True
