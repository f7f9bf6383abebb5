"""One call of ``docker compose`` or ``docker pull``, and what its complaints mean.

In: words. Out: nothing, or an error that says what to do. The engine is named by its socket, so
that a context that changes meanwhile changes nothing.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence

from enova.base.errors import ActionFailed, Refused
from enova.effects.drivers import docker_endpoint
from enova.effects.drivers.docker_ground import Ground

CALL_S = 180.0
PULL_S = 3600.0

_NOISE = re.compile(r"^\s*(Container|Network|Volume|Image) \S+\s+\w+\s*$|^time=.*level=warning")
_NO_COMPOSE = re.compile(
    r"'compose' is not a docker command|unknown (short)?hand flag|unknown command"
)
_HINTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r'could not select device driver "\w*" with capabilities'),
        "This engine cannot give GPUs to containers: install the NVIDIA Container Toolkit and "
        "restart Docker",
    ),
    (
        re.compile(r"port is already allocated|address already in use"),
        "Something else has that port: stop it, or choose another one in the spec",
    ),
    (
        re.compile(r"bind source path does not exist"),
        "The path is on this machine only if the spec says so: correct it there",
    ),
)


def compose(
    ground: Ground,
    *words: str,
    address: str,
    step: str,
    variables: Mapping[str, str],
    timeout_s: float = CALL_S,
) -> None:
    """Run ``docker compose`` for this stack's project. ``variables``: secrets for its file.

    Raises ActionFailed with the engine's reason, Refused without the Compose plugin.
    """
    command = (
        "compose",
        "--project-name",
        ground.project_name,
        "--project-directory",
        str(ground.run),
        "--file",
        str(ground.file),
        *words,
    )
    said = _run(ground, command, variables=variables, timeout_s=timeout_s)
    if said is None:
        return
    lines, reason = said
    if any(_NO_COMPOSE.search(line) for line in lines):
        raise Refused(NO_COMPOSE)
    hint = next((hint for pattern, hint in _HINTS if pattern.search(reason)), "")
    raise ActionFailed(address, step, f"{reason}. {hint}" if hint else reason, lines)


NO_COMPOSE = (
    "the `docker` command has no Compose plugin of version 2. Install docker-compose-plugin "
    "(https://docs.docker.com/compose/install/linux)"
)


def compose_version(surroundings: Mapping[str, str]) -> str | None:
    """The version of the Compose plugin; None without one. Raises Refused without ``docker``."""
    done = subprocess.run(
        (docker_endpoint.client(surroundings), "compose", "version", "--short"),
        env=docker_endpoint.environment(surroundings),
        capture_output=True,
        text=True,
        check=False,
        timeout=CALL_S,
    )
    return done.stdout.strip() if done.returncode == 0 else None


def pull(ground: Ground, image: str, *, address: str) -> None:
    """Pull an image with the registry login of this user. Raises ActionFailed."""
    said = _run(ground, ("pull", "--quiet", image), variables={}, timeout_s=PULL_S)
    if said is not None:
        raise ActionFailed(
            address,
            "start",
            f"the image {image} is not on this machine, and the registry says: {said[1]}. Check "
            "its name, log in (docker login), or load it (docker load); another one is named by "
            "engine.image",
            said[0],
        )


def _run(
    ground: Ground, words: Sequence[str], *, variables: Mapping[str, str], timeout_s: float
) -> tuple[list[str], str] | None:
    """None when it worked, else its last lines and the one that says why."""
    environment = docker_endpoint.environment(ground.surroundings)
    environment["DOCKER_HOST"] = f"unix://{ground.engine.socket}"
    environment.update(variables)
    command = (docker_endpoint.client(ground.surroundings), *words)
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return [], f"`docker {words[0]}` did not end within {timeout_s:.0f} s"
    if done.returncode == 0:
        return None
    output = (done.stdout + "\n" + done.stderr).splitlines()
    lines = [line.rstrip() for line in output if line.strip() and not _NOISE.match(line)]
    told = lines[-1].strip() if lines else f"`docker {words[0]}` exited with {done.returncode}"
    reason = re.sub(r"^(Error response from daemon|Error): ", "", told)
    return lines[-30:], reason.rstrip(".")
