"""The files of a stack on the compose target, as they are after a plan was carried out.

In: a plan, its stack, and what runs now. Out: texts by path; in a folder of them
``docker compose up -d`` starts the stack without enova. What only the target knows has a stand-in:
subnet and addresses, where nothing runs yet. Secrets are left open (``.env.example``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from enova.base.address import GATEWAY, RECONCILER
from enova.base.address import monitor as monitor_address
from enova.base.digest import digest
from enova.capacity.catalog import images
from enova.effects import gateway
from enova.effects.packaged import template_text
from enova.stack.actions import (
    StartGateway,
    StartMonitor,
    StartReconciler,
    StartReplica,
    StopReplica,
)
from enova.stack.monitoring import PROMETHEUS, WEBHOOK
from enova.stack.observed import Observed, Placement
from enova.stack.plan import Plan
from enova.stack.render import (
    compose,
    compose_monitors,
    compose_reconciler,
    monitors,
    prometheus,
)
from enova.stack.render.compose_parts import Document, Project
from enova.stack.render.compose_text import secrets_in
from enova.stack.render.envoy import BOOTSTRAP, render_files
from enova.stack.render.envoy_members import Member, render_members
from enova.stack.render.envoy_secrets import (
    CERTIFICATE_FILE,
    KEYS_FILE,
    render_api_keys,
    render_certificate,
)
from enova.stack.render.gateway_settings import settings_of
from enova.stack.resources import GatewayResource, MonitorResource, ReplicaTemplate, Stack

_ABOUT_ENVIRONMENT = (
    "# What compose.yaml takes from its environment. Copy to .env, mode 0600, and fill it in."
)
_GATEWAY_AT, _RECONCILER_AT, _MONITORS_FROM, _REPLICAS_FROM = 2, 3, 10, 20
"""Places in a subnet that nothing runs in yet."""


@dataclass(frozen=True)
class Running:
    """One replica as it runs after the plan."""

    instance: str
    address: str
    template: ReplicaTemplate
    placement: Placement
    ip: str


@dataclass(frozen=True)
class Keeping:
    """Where the stack's state and the engine's socket are, for its reconciler."""

    root: str
    folder: str
    socket: str
    socket_group: int


def files(
    made: Plan, stack: Stack, observed: Observed, keeping: Keeping | None = None
) -> dict[str, str]:
    """Texts by path. ``keeping``: for a stack with a reconciler."""
    project = _project(made, observed)
    replicas = _replicas(made, stack, observed, project)
    services = {
        one.instance: compose.replica(
            project,
            instance=one.instance,
            address=one.address,
            template=one.template,
            placement=one.placement,
            ip=one.ip,
            image=compose.engine_image(one.template),
            apply=_apply_of(one.instance),
            cache=compose.cache_of(one.template),
        )
        for one in replicas
    }
    found: dict[str, str] = {}
    if stack.gateway is not None:
        name = _component(made, observed, GATEWAY)
        services[name] = _gateway(project, name, stack.gateway)
        found.update(_gateway_files(project, stack, stack.gateway, replicas))
    at = {one.name: _at(project, _MONITORS_FROM + n) for n, one in enumerate(stack.monitors)}
    for resource in stack.monitors:
        name = _component(made, observed, resource.address)
        services[name], texts = _monitor(project, name, resource, at)
        found.update(texts)
    if stack.monitor(PROMETHEUS) is not None:
        found.update(_targets(project, replicas, services))
    if stack.reconciler is not None and keeping is not None:
        name = _component(made, observed, RECONCILER)
        services[name] = _reconciler(project, name, stack, keeping)
    document = compose.document(project, services)
    found["compose.yaml"] = compose.dump(document)
    wanted = _environment(document, stack)
    if wanted:
        found[".env.example"] = "\n".join([_ABOUT_ENVIRONMENT, *wanted]) + "\n"
    return found


def _project(made: Plan, observed: Observed) -> Project:
    hosts = [i.endpoint.rpartition(":")[0] for i in observed.instances if i.endpoint]
    known = sorted(host.rpartition(".")[0] for host in hosts if host.startswith("10."))
    seed = int(digest([made.stack, made.env])[:4], 16)
    network = known[0] if known else f"10.{200 + seed % 50}.{seed // 256}"
    return Project(
        stack=made.stack,
        env=made.env,
        subnet=f"{network}.0/24",
        user=f"{os.getuid()}:{os.getgid()}",
        cores=os.cpu_count() or 1,
    )


def _replicas(
    made: Plan, stack: Stack, observed: Observed, project: Project
) -> tuple[Running, ...]:
    """Sorted by instance. Those that run already keep their addresses."""
    stopped = {action.do.instance for action in made.actions if isinstance(action.do, StopReplica)}
    kept: dict[str, tuple[str, ReplicaTemplate, Placement, str]] = {}
    for instance in observed.instances:
        service = stack.service(instance.address.split("/", 1)[0])
        if instance.id in stopped or service is None:
            continue
        host = (instance.endpoint or "").rpartition(":")[0]
        kept[instance.id] = (instance.address, service.template, instance.placement, host)
    for action in made.actions:
        if isinstance(action.do, StartReplica):
            do = action.do
            kept[do.instance] = (action.address, do.template, do.placement, "")
    prefix = project.subnet.rpartition(".")[0]
    taken = {host for *_, host in kept.values()}
    free = (ip for n in range(_REPLICAS_FROM, 255) if (ip := f"{prefix}.{n}") not in taken)
    found = []
    for instance_id, (address, template, placement, host) in sorted(kept.items()):
        ip = host if host.startswith(f"{prefix}.") else next(free)
        found.append(Running(instance_id, address, template, placement, ip))
    return tuple(found)


def _component(made: Plan, observed: Observed, address: str) -> str:
    """The id of the component that is at an address after the plan."""
    for action in made.actions:
        if (
            isinstance(action.do, StartGateway | StartMonitor | StartReconciler)
            and action.address == address
        ):
            return action.do.component
    found = observed.component(address)
    return found.id if found is not None else address.replace("/", "-")


def _apply_of(owned_id: str) -> str:
    return owned_id.rpartition("-")[2]


def _gateway(project: Project, component: str, resource: GatewayResource) -> Document:
    ip = _at(project, _GATEWAY_AT)
    bootstrap = f"{compose.gateway_places(ip).config_dir}/{BOOTSTRAP}"
    return compose.gateway(
        project,
        component=component,
        resource=resource,
        ip=ip,
        image=resource.image or images.program_image("envoy").reference,
        apply=_apply_of(component),
        command=gateway.command_line(Path("envoy"), Path(bootstrap)),
    )


def _gateway_files(
    project: Project, stack: Stack, resource: GatewayResource, replicas: tuple[Running, ...]
) -> Iterator[tuple[str, str]]:
    places = compose.gateway_places(_at(project, _GATEWAY_AT))
    settings = settings_of(resource, stack=_label(project), places=places)
    for name, document in render_files(settings, template_text("gateway.lua")).items():
        yield f"gateway/{name}", _json(document)
    if resource.keys:
        # Nobody is let in until the keys are written.
        yield f"gateway/{KEYS_FILE}", _json(render_api_keys({}))
    if settings.tls is not None:
        yield f"gateway/{CERTIFICATE_FILE}", _json(render_certificate(settings.tls))
    for service in stack.services:
        members = [
            Member(one.instance, one.ip, compose.ENGINE_PORT, weight=one.template.weight)
            for one in replicas
            if one.template.service == service.name
        ]
        yield f"members/{service.name}.json", _json(render_members(service.name, members))
    yield "gateway/run/.keep", ""
    yield "log/.keep", ""


def _monitor(
    project: Project, component: str, resource: MonitorResource, addresses: Mapping[str, str]
) -> tuple[Document, dict[str, str]]:
    """The service of one monitor and the files it reads, without secrets."""
    name = resource.name
    peers = {peer: peer for peer in resource.peers}
    places = compose_monitors.monitor_places(_label(project), name, peers=peers)
    service = compose_monitors.monitor(
        project,
        component=component,
        resource=resource,
        ip=addresses[name],
        image=resource.image or images.program_image(name).reference,
        apply=_apply_of(component),
    )
    texts = {
        f"monitoring/{name}/config/{path}": text
        for path, text in monitors.files(resource, places).items()
    }
    if compose_monitors.WATCHERS[name].keeps:
        texts[f"monitoring/{name}/data/.keep"] = ""
    return service, texts


def _reconciler(project: Project, component: str, stack: Stack, keeping: Keeping) -> Document:
    """The service of the reconciler. Without a profile that is asked for it does not start: it
    keeps what ``enova apply`` noted, and where that never ran there is nothing to keep."""
    assert stack.reconciler is not None
    service = compose_reconciler.reconciler(
        project,
        component=component,
        resource=stack.reconciler,
        ip=_at(project, _RECONCILER_AT),
        apply=_apply_of(component),
        root=keeping.root,
        folder=keeping.folder,
        socket=keeping.socket,
        socket_group=keeping.socket_group,
        gpus=any(s.template.needs.gpus and s.template.engine != "emulator" for s in stack.services),
    )
    return {**service, "profiles": [RECONCILER]}


def _targets(
    project: Project, replicas: tuple[Running, ...], services: Mapping[str, Document]
) -> Iterator[tuple[str, str]]:
    """The target file of every job. Replicas are named with their service."""
    found: dict[str, list[prometheus.Target]] = {
        prometheus.ENGINES: [
            prometheus.Target(
                f"{one.ip}:{compose.ENGINE_PORT}", one.instance, one.address, one.template.service
            )
            for one in replicas
        ]
    }
    for name, service in services.items():
        address, ip = compose.address_of(service), compose.ip_of(service)
        if address == GATEWAY:
            target = prometheus.Target(f"{ip}:{compose.METRICS_PORT}", name, address)
            found[prometheus.GATEWAY] = [target]
        for monitor, what in compose_monitors.WATCHERS.items():
            if address == monitor_address(monitor):
                found[monitor] = [prometheus.Target(f"{ip}:{what.metrics_port}", name, address)]
    for job in prometheus.JOBS:
        document = prometheus.targets(_label(project), found.get(job, []))
        yield f"monitoring/targets/{job}.json", json.dumps(document, indent=2) + "\n"


def _environment(document: Document, stack: Stack) -> list[str]:
    """Secrets that were left open: variables to set, and what only ``enova apply`` writes."""
    lines = []
    for name, where in secrets_in(document).items():
        lines += [f"# enova reads it from: {where}", f"{name}="]
    keys = stack.gateway.keys if stack.gateway else ()
    if keys:
        named = ", ".join(f"{key.name} ({key.secret.describe()})" for key in keys)
        lines += [
            f"# API keys are not taken from here: {named}.",
            f"# `enova apply` writes them into gateway/{KEYS_FILE}; until then nobody is let in.",
        ]
    told = [m for m in stack.monitors if WEBHOOK in dict(m.secrets)]
    lines += [
        f"# Nor is the URL that alerts are sent to ({dict(m.secrets)[WEBHOOK].describe()}): "
        "until `enova apply` writes it nobody is told."
        for m in told
    ]
    return lines


def _label(project: Project) -> str:
    return f"{project.stack}.{project.env}" if project.env else project.stack


def _at(project: Project, place: int) -> str:
    return f"{project.subnet.rpartition('.')[0]}.{place}"


def _json(document: Mapping[str, object]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
