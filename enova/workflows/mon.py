"""``enova mon``: look after the monitoring part alone: what of it runs, stop it, start it again.

In: one stack's site. Out: a value the views print, or a plan about that part, carried out like any
other. Services and gateway are not touched; a stopped part stays stopped, by the record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enova.base import address as addresses
from enova.base.errors import Refused, Unreachable
from enova.base.secret import SecretRef
from enova.effects.sources.prometheus_api import AlertNow, PrometheusApi
from enova.spec.model import Spec
from enova.stack import desired, monitoring
from enova.stack.emptiness import Scraped
from enova.stack.observed import Component, Observed, State
from enova.stack.plan import Inputs, Plan
from enova.stack.plan import plan as make_plan
from enova.stack.resources import MonitorResource, Stack
from enova.workflows.wiring import Gathered, Site, gather

ADMIN = "admin"
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104

Wanted = Literal["yes", "no", "not here"]
"""``no``: the spec says ``off``. ``not here``: ``auto``, and the target cannot run it."""


@dataclass(frozen=True)
class Part:
    """One program of the monitoring part. ``state`` None: there is none of it."""

    name: str
    wanted: Wanted
    state: State | None = None
    url: str | None = None
    exit_reason: str | None = None

    @property
    def lacks(self) -> bool:
        """Whether it should run and does not."""
        return self.wanted == "yes" and self.state is not State.SERVING


@dataclass(frozen=True)
class GrafanaDoor:
    """How to open the dashboards. ``password``: where it is kept, never what it is."""

    url: str
    user: str
    password: str


@dataclass(frozen=True)
class MonStatus:
    """The monitoring part now. ``targets`` and ``alerts`` are Prometheus' own view of them;
    ``silent`` says why there is none."""

    stack: str
    env: str
    stopped: bool
    parts: tuple[Part, ...]
    targets: tuple[Scraped, ...] = ()
    alerts: tuple[AlertNow, ...] = ()
    grafana: GrafanaDoor | None = None
    silent: str = ""

    @property
    def well(self) -> bool:
        """Whether all runs that should: what is stopped should not."""
        if self.stopped:
            return True
        asked = next((p.state for p in self.parts if p.name == monitoring.PROMETHEUS), None)
        unheard = bool(self.silent) and asked is not None
        return not unheard and not any(part.lacks for part in self.parts)


def mon_status(here: Site) -> MonStatus:
    """What of the monitoring part runs, what it reads and what it warns of.

    Raises Refused when nothing is applied.
    """
    seen = gather(here)
    spec, stack = _applied(here, seen)
    parts = tuple(_part(name, spec, stack, seen.observed) for name in sorted(monitoring.KEYS))
    targets: tuple[Scraped, ...] = ()
    alerts: tuple[AlertNow, ...] = ()
    url, silent = prometheus_url(seen.observed), ""
    if url is None:
        silent = "Prometheus does not run"
    else:
        try:
            with PrometheusApi(url) as api:
                targets, alerts = api.targets(), api.alerts()
        except Unreachable as error:
            silent = str(error)
    return MonStatus(
        stack=here.state.stack,
        env=here.state.env,
        stopped=seen.record.monitors_stopped,
        parts=parts,
        targets=targets,
        alerts=alerts,
        grafana=_grafana(here, stack, parts),
        silent=silent,
    )


def plan_switch(here: Site, switch: Literal["start", "stop"]) -> Plan:
    """Plan starting or stopping the monitoring part; empty when it is so already.

    Raises Refused when nothing is applied.
    """
    seen = gather(here)
    spec, stack = _applied(here, seen)
    notes: tuple[str, ...] = ()
    if switch == "start" and not stack.monitors:
        keys = ", ".join(f"monitoring.{key}" for key in sorted(monitoring.KEYS.values()))
        notes = (f"nothing of the monitoring is on in {spec.name}, or can run here: {keys}",)
    return make_plan(
        Inputs(
            stack=here.state.stack,
            env=here.state.env,
            ask=seen.recorded,
            record=seen.record,
            recorded=seen.recorded,
            observed=seen.observed,
            inventory=seen.inventory,
            monitors=seen.monitors,
            monitoring=switch,
            notes=notes,
        )
    )


def prometheus_url(observed: Observed) -> str | None:
    """Where the stack's Prometheus answers; None when none runs."""
    found = observed.component(addresses.PROMETHEUS)
    if found is None or found.endpoint is None or found.state is State.EXITED:
        return None
    return f"http://{found.endpoint}"


def applied_stack(here: Site, seen: Gathered) -> Stack:
    """The stack last applied, with its monitors also while they are stopped. Raises Refused."""
    return _applied(here, seen)[1]


def _applied(here: Site, seen: Gathered) -> tuple[Spec, Stack]:
    if seen.recorded is None:
        raise Refused(
            f"{here.state.stack} is not applied, so it has no monitoring. Run: enova apply"
        )
    asked = seen.recorded
    stack = desired.build(asked.spec, asked.choices, monitors=seen.monitors, images=asked.images)
    return asked.spec, stack


def _part(name: str, spec: Spec, stack: Stack, observed: Observed) -> Part:
    resource = stack.monitor(name)
    enabled = monitoring.part(spec.monitoring, name).enabled
    wanted: Wanted = "yes" if resource is not None else "no" if enabled == "off" else "not here"
    found = observed.component(addresses.monitor(name))
    if found is None:
        return Part(name, wanted)
    return Part(name, wanted, found.state, _url(found, resource), found.exit_reason)


def _url(found: Component, resource: MonitorResource | None) -> str | None:
    """Where people reach it: its published port, else where this machine does."""
    if found.state is State.EXITED or found.endpoint is None:
        return None
    if resource is None or resource.port is None:
        return f"http://{found.endpoint}"
    host = "127.0.0.1" if resource.host in _EVERYWHERE else resource.host
    return f"http://{host}:{resource.port}"


def _grafana(here: Site, stack: Stack, parts: tuple[Part, ...]) -> GrafanaDoor | None:
    url = next((part.url for part in parts if part.name == monitoring.GRAFANA), None)
    resource = stack.monitor(monitoring.GRAFANA)
    if url is None or resource is None:
        return None
    generated = here.state.run_folder / f"{monitoring.GRAFANA}-{monitoring.PASSWORD}"
    given = dict(resource.secrets).get(monitoring.PASSWORD, SecretRef(file=str(generated)))
    return GrafanaDoor(url, ADMIN, given.describe())
