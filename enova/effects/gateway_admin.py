"""Envoy's admin interface: what the gateway does now, and waiting until it does what was asked.

In: the unix socket (or loopback port) of one gateway process. Out: what it does, as values.
Configuration is written to files (``effects.gateway``); here one learns when Envoy has taken them
and when an instance has no open request left, which is when it may be stopped.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enova.base.errors import Unreachable
from enova.stack.render.envoy import CLUSTERS, LISTENERS, ROUTES
from enova.stack.render.envoy_members import Member
from enova.stack.render.envoy_secrets import API_KEYS, CERTIFICATE, CERTIFICATE_FILE, KEYS_FILE

_POLL_S = 0.05
_HOLD_S = 0.1

_SOURCES = {
    CLUSTERS: r"cluster_manager\.cds",
    LISTENERS: r"listener_manager\.lds",
    ROUTES: r"http\.gateway\.rds\..*",
    KEYS_FILE: rf"extension_config_discovery\.http_filter\.{API_KEYS}",
    CERTIFICATE_FILE: rf"sds\.{CERTIFICATE}",
}
"""What Envoy calls that which reads each file."""
_WARMING = r"(cluster_manager\.warming_clusters|listener_manager\.total_listeners_warming)"
_LOOKS = 5


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

    def open_requests(self) -> int:
        """Requests of clients that are open."""
        return self._sum(r"http\.gateway\.downstream_rq_active")

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
        learned of the drain. Envoy counts by instance only since the service was last changed;
        requests from before are known by number alone, so all of them are waited for.
        """
        quiet_since: float | None = None
        unassigned: deque[int] = deque(maxlen=_LOOKS)

        def idle() -> bool:
            nonlocal quiet_since
            now = time.monotonic()
            endpoints = self.endpoint_stats(service)
            total = self._sum(rf"cluster\.{re.escape(service)}\.upstream_rq_active")
            # The two looks are not at the same moment: under load each difference is off by a
            # few, in both directions.
            unassigned.append(total - sum(e.rq_active for e in endpoints))
            here = any(e.rq_active for e in endpoints if e.instance_id == instance_id)
            if here or statistics.median(unassigned) > 0:
                quiet_since = None
                return False
            quiet_since = now if quiet_since is None else quiet_since
            return now - quiet_since >= _HOLD_S

        return _wait(idle, deadline_s)

    def wait_quiet(self, *, deadline_s: float) -> bool:
        """Whether no client has an open request within ``deadline_s`` seconds."""
        return _wait(lambda: self.open_requests() == 0, deadline_s)

    def rejections(self, file: str) -> int:
        """How often Envoy has refused ``clusters.json`` and the like so far."""
        return self._sum(rf"{_SOURCES[file]}\.update_rejected")

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

        Gives up early when it was refused more than ``rejected`` times.
        """

        def serves() -> bool:
            return self.version(file) == version and self._sum(_WARMING) == 0

        return _wait(lambda: serves() or self.rejections(file) > rejected, deadline_s) and serves()

    def version(self, file: str) -> str:
        """The version of a file that Envoy took last, empty when it never read it."""
        stat = rf"^{_SOURCES[file]}\.version_text$"
        lines = self._get(f"/stats?type=TextReadouts&filter={stat}").splitlines()
        return lines[0].partition(": ")[2].strip('"') if lines else ""

    def _sum(self, stats: str) -> int:
        """The counters and gauges of that name (a regular expression), added up."""
        lines = self._get(f"/stats?filter=^{stats}$").splitlines()
        return sum(int(line.rpartition(": ")[2]) for line in lines if ": " in line)

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
    """HTTP over a unix socket. The path may be longer than a socket's may be (107 bytes): it is
    reached through its folder's descriptor."""

    def __init__(self, path: Path, *, timeout: float) -> None:
        super().__init__("gateway", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{folder}/{self._path.name}")
            finally:
                os.close(folder)
        except OSError:
            connection.close()
            raise
        self.sock = connection


_OUT_OF_ROTATION = (
    "failed_active_health_check",
    "failed_outlier_check",
    "pending_active_hc",
    "pending_dynamic_removal",
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
        rq_active=stats.get("rq_active", 0),
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
