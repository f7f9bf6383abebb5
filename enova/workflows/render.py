"""``enova render``: the files a plan would use, to read, to review or to keep.

In: a plan and the site it is for. Out: texts by path. Nothing secret is in them: secrets are named
by reference. What only the target knows at the moment of start (ports, sockets) has a stand-in.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from enova.base.errors import Refused
from enova.effects.drivers import docker_endpoint
from enova.effects.packaged import template_text
from enova.effects.state.files import replace_file
from enova.stack import desired
from enova.stack.document import plan_to_json
from enova.stack.observed import Member, Placement
from enova.stack.plan import Ask, Plan
from enova.stack.render import engine, monitors
from enova.stack.render.envoy import render_files
from enova.stack.render.envoy_members import Member as RenderedMember
from enova.stack.render.envoy_members import render_members
from enova.stack.render.envoy_secrets import CERTIFICATE_FILE, KEYS_FILE
from enova.stack.render.gateway_settings import GatewayPlaces, settings_of
from enova.stack.render.unit import ReconcileUnit, render_unit
from enova.stack.resources import GatewayResource, MonitorResource, ReplicaTemplate, Stack
from enova.workflows import render_compose
from enova.workflows.apply import ask_in
from enova.workflows.wiring import Site

STAND_IN_PORT = 9901
"""For the metrics port, which the target picks; the next one for the admin port."""

SOCKET_PATH_MOST = 100


def render(made: Plan, here: Site) -> dict[str, str]:
    """Texts by path below the folder, sorted. Raises Refused for a plan that destroys."""
    ask = ask_in(made)
    if ask is None:
        raise Refused("a plan to destroy uses no files")
    stack = desired.build(
        ask.spec, ask.choices, monitors=here.driver.runs_monitors(), images=ask.images
    )
    files = {"plan.json": plan_to_json(made)}
    if here.pool.target == "compose":
        files.update(
            render_compose.files(made, stack, here.driver.observe(), _keeping(stack, here))
        )
    else:
        files.update(_programs(stack, here))
    unit = _unit(ask, stack, here)
    files[unit.name] = render_unit(unit, template_text("enova-reconcile.service"))
    return dict(sorted(files.items()))


def _keeping(stack: Stack, here: Site) -> render_compose.Keeping | None:
    """What the reconciler's service is made of besides its resource."""
    if stack.reconciler is None:
        return None
    socket = docker_endpoint.socket(here.surroundings.environment).resolve()
    return render_compose.Keeping(
        root=str(here.state.root),
        folder=str(here.state.folder),
        socket=str(socket),
        socket_group=socket.stat().st_gid,
    )


def _programs(stack: Stack, here: Site) -> Iterator[tuple[str, str]]:
    """What the target that runs programs reads: engines, gateway, monitors."""
    for service in stack.services:
        yield from _engine(service.template)
    if stack.gateway is not None:
        yield from _gateway(stack, stack.gateway, here)
    for monitor in stack.monitors:
        yield from _monitor(monitor, here)


def write_files(files: Mapping[str, str], folder: Path, *, force: bool) -> None:
    """Write the texts below a folder. Raises Refused when it holds something, unless ``force``."""
    if folder.exists() and any(folder.iterdir()) and not force:
        raise Refused(f"{folder} is not empty. Name another folder, or --force to write into it")
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode())
        path.chmod(0o755 if name.endswith(".sh") else 0o644)


def _engine(template: ReplicaTemplate) -> Iterator[tuple[str, str]]:
    """The command of one replica, as a script and as data."""
    if template.engine == "emulator":
        program = [template.executable] if template.executable else ["enova", "emulator"]
    else:
        program = [template.executable or template.engine, "serve"]
    words = engine.command(template, program=program, host="127.0.0.1", port=0)[:-1]
    cores = tuple(range(template.needs.cores))
    environment = engine.environment(template, Placement("", cores=cores))
    if template.needs.gpus:
        # Which ones is decided when a replica is placed.
        del environment["CUDA_VISIBLE_DEVICES"]
    secrets = {name: reference.describe() for name, reference in template.secret_env}
    lines = ["#!/bin/sh", f"# One replica of {template.service}. Usage: PORT=20001 sh {{}}"]
    lines[1] = lines[1].format(f"{template.service}.sh")
    if template.needs.gpus:
        count, kind = template.needs.gpus, template.needs.gpu_type
        lines.append(f"# Takes {count} x {kind}: set CUDA_VISIBLE_DEVICES to their indices.")
    lines += [f"# Needs {name}, read from {where}." for name, where in sorted(secrets.items())]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines.append(f'exec {shlex.join(words)} "$PORT"')
    yield f"engines/{template.service}.sh", "\n".join(lines) + "\n"
    data = {
        "service": template.service,
        "engine": template.engine,
        "version": template.engine_version,
        "command": [*words, "{port}"],
        "environment": environment,
        "secrets": secrets,
        "gpus": template.needs.gpus,
        "gpu_type": template.needs.gpu_type,
        "cores": template.needs.cores,
        "start_timeout_s": template.start_timeout_s,
        "drain_timeout_s": template.drain_timeout_s,
        "digest": template.digest,
    }
    yield f"engines/{template.service}.json", _json(data)


def _gateway(stack: Stack, resource: GatewayResource, here: Site) -> Iterator[tuple[str, str]]:
    """Envoy's files and the members of each service as they are now."""
    run = here.state.run_folder
    component = run / "components" / "gateway"
    socket = str(component / "admin.sock")
    # As the target does: a path too long for a socket is replaced by a port, except with API
    # keys, which a port would show to any user.
    by_port = len(socket) > SOCKET_PATH_MOST and not resource.keys
    places = GatewayPlaces(
        config_dir=str(component),
        members_dir=str(run / "gateway" / "members"),
        access_log=str(run / "gateway" / "access.log"),
        keys=str(component / KEYS_FILE),
        certificate=str(component / CERTIFICATE_FILE),
        metrics_port=STAND_IN_PORT,
        admin_path=None if by_port else socket,
        admin_port=STAND_IN_PORT + 1 if by_port else None,
    )
    settings = settings_of(resource, stack=here.state.folder.name, places=places)
    for name, document in render_files(settings, template_text("gateway.lua")).items():
        yield f"gateway/{name}", _json(document)
    members = here.driver.observe().members
    for service in stack.services:
        found = [_member(member) for member in members.get(service.name, ())]
        yield (
            f"gateway/members/{service.name}.json",
            _json(render_members(service.name, found)),
        )


def _monitor(resource: MonitorResource, here: Site) -> Iterator[tuple[str, str]]:
    """The files of one monitor, with what its secrets are read from in their place."""
    run = here.state.run_folder
    places = monitors.MonitorPlaces(
        stack=here.state.folder.name,
        config=str(run / "monitoring" / resource.name / "config"),
        data=str(run / "monitoring" / resource.name / "data"),
        targets=str(run / "monitoring" / "targets"),
        listen=f"{resource.host}:{resource.port or STAND_IN_PORT}",
        secrets={name: f"<{reference.describe()}>" for name, reference in resource.secrets},
    )
    for name, text in monitors.files(resource, places).items():
        yield f"monitoring/{resource.name}/config/{name}", text


def _member(member: Member) -> RenderedMember:
    host, _, port = member.endpoint.rpartition(":")
    return RenderedMember(
        member.instance,
        host,
        int(port),
        weight=member.weight,
        state="draining" if member.draining else "serving",
    )


def _unit(ask: Ask, stack: Stack, here: Site) -> ReconcileUnit:
    surroundings = here.surroundings
    references = [ref for s in stack.services for _, ref in s.template.secret_env]
    references += [key.secret for key in stack.gateway.keys] if stack.gateway else []
    words = [sys.executable, "-m", "enova", "reconcile", here.state.stack]
    environment = {
        "ENOVA_STATE_DIR": str(surroundings.root),
        "PATH": surroundings.environment.get("PATH", os.defpath),
    }
    return ReconcileUnit(
        stack=ask.spec.name,
        env=here.state.env,
        command=[*words, "--env", here.state.env] if here.state.env else words,
        folder=str(Path.cwd()),
        environment=environment,
        secret_variables=sorted({ref.env for ref in references if ref.env}),
    )


def _json(document: Mapping[str, object]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
