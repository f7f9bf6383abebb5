"""Asking a Docker engine through its SDK: containers, their output, networks, images.

In: labels, ids. Out: values. The one place that knows the SDK and its exceptions. Nothing is
decided here, and nothing that was not named is changed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, ip_network
from pathlib import Path

import docker
import docker.errors

from enova.base.errors import Refused, Unreachable
from enova.effects.drivers import docker_container, docker_endpoint
from enova.effects.drivers.docker_container import PROJECT, Container

_TIMEOUT_S = 60


@dataclass(frozen=True)
class About:
    """The engine itself."""

    version: str
    api: str
    cores: int
    memory_bytes: int
    system: str
    gpus: bool
    """Whether it has a runtime for NVIDIA's devices."""


@dataclass(frozen=True)
class Network:
    """One network of the engine."""

    id: str
    name: str
    subnets: tuple[IPv4Network, ...]
    labels: Mapping[str, str]


class Engine:
    """One engine on this machine. Which one is found out when it is first asked."""

    def __init__(self, surroundings: Mapping[str, str]) -> None:
        self._surroundings = surroundings

    @cached_property
    def socket(self) -> Path:
        """Its socket. Raises Refused or Unreachable with what to do."""
        return docker_endpoint.socket(self._surroundings)

    @cached_property
    def about(self) -> About:
        """What it is. Raises Refused when containers do not run on this machine."""
        with self._asking() as client:
            version, info = client.version(), client.info()
        system = str(info.get("OperatingSystem") or "")
        if "Docker Desktop" in system:
            raise Refused(
                f"the engine at {self.socket} is Docker Desktop, which runs containers in a "
                "virtual machine of its own. Target compose needs Docker Engine on this machine"
            )
        return About(
            version=str(version.get("Version")),
            api=str(version.get("ApiVersion")),
            cores=int(info.get("NCPU") or 1),
            memory_bytes=int(info.get("MemTotal") or 0),
            system=system,
            gpus="nvidia" in (info.get("Runtimes") or {}),
        )

    def containers(self, labels: Mapping[str, str]) -> tuple[Container, ...]:
        """Containers in any state that carry all these labels (a value of "": whatever it is)."""
        wanted = [f"{name}={value}" if value else name for name, value in labels.items()]
        with self._asking() as client:
            found = client.api.containers(all=True, filters={"label": wanted})
            inspected = []
            for entry in found:
                # It may be removed in between.
                with contextlib.suppress(docker.errors.NotFound):
                    inspected.append(client.api.inspect_container(entry["Id"]))
        containers = [docker_container.from_inspect(data) for data in inspected]
        return tuple(sorted(containers, key=lambda one: one.name))

    def remove(self, container: Container) -> None:
        """Remove it, running or not, with its anonymous volumes. A missing one is removed."""
        with self._asking() as client, contextlib.suppress(docker.errors.NotFound):
            client.api.remove_container(container.id, force=True, v=True)

    def stop(self, container: Container, *, grace_s: float) -> None:
        """SIGTERM, after ``grace_s`` seconds SIGKILL. Docker does not start it again."""
        grace = max(0, round(grace_s))
        with (
            self._asking(timeout_s=grace + _TIMEOUT_S) as client,
            contextlib.suppress(docker.errors.NotFound),
        ):
            client.api.stop(container.id, timeout=grace)

    def signal(self, container: Container, name: str) -> None:
        """Send its main process a signal, such as SIGHUP."""
        with self._asking() as client:
            client.api.kill(container.id, signal=name)

    def lines(self, container: Container, count: int) -> list[str]:
        """The last lines of its output."""
        with self._asking() as client:
            try:
                data = client.api.logs(container.id, tail=count)
            except docker.errors.APIError as error:
                # It is gone, or goes just now.
                if error.status_code in (404, 409):
                    return []
                raise
        return _text(bytes(data)).splitlines()

    def follow(self, container: Container, tail: int) -> Iterator[str]:
        """Its last lines, then every further one until it ends."""
        held = b""
        with self._asking(timeout_s=None) as client:
            stream = client.api.logs(container.id, stream=True, follow=True, tail=tail)
            try:
                for data in stream:
                    *whole, held = (held + data).split(b"\n")
                    yield from (_text(line) for line in whole)
            finally:
                stream.close()
        if held:
            yield _text(held)

    def events(self, container: Container, *, since: float) -> list[str]:
        """What happened to it since then (seconds since 1970), in Docker's words."""
        filters = {"container": container.id, "type": "container"}
        with self._asking() as client:
            stream = client.events(
                # Until now: it would wait for what comes.
                since=f"{since:.6f}",
                until=f"{time.time():.6f}",
                filters=filters,
                decode=True,
            )
            try:
                return [str(event["status"]) for event in stream if "status" in event]
            finally:
                stream.close()

    def image(self, reference: str) -> str | None:
        """The id of an image that is here, None when it would have to be pulled."""
        with self._asking() as client:
            try:
                return str(client.api.inspect_image(reference)["Id"])
            except docker.errors.ImageNotFound:
                return None

    def is_from_registry(self, reference: str) -> bool | None:
        """Whether an image that is here was pulled or pushed under its name; None: it is not here.

        One that was built or loaded was not.
        """
        with self._asking() as client:
            try:
                data = client.api.inspect_image(reference)
            except docker.errors.ImageNotFound:
                return None
        return bool(data.get("RepoDigests"))

    def registry_digest(self, reference: str, *, timeout_s: int) -> tuple[str | None, str]:
        """The digest that a registry has for an image now, with this user's login; or None and why.

        Raises Unreachable when the engine itself has no answer within ``timeout_s``.
        """
        with self._asking(timeout_s=timeout_s) as client:
            login = docker_endpoint.login_file(self._surroundings)
            if login is not None:
                client.api.reload_config(str(login))
            try:
                data = client.api.inspect_distribution(reference)
            except docker.errors.APIError as error:
                return None, str(error.explanation or error)
        return str(data["Descriptor"]["digest"]), ""

    def networks(self) -> tuple[Network, ...]:
        """Every network of the engine, sorted by name."""
        with self._asking() as client:
            found = client.api.networks()
        networks = [
            Network(
                id=data["Id"],
                name=data["Name"],
                subnets=tuple(
                    network
                    for config in (data.get("IPAM") or {}).get("Config") or ()
                    if isinstance(network := ip_network(config["Subnet"], False), IPv4Network)
                ),
                labels=dict(data.get("Labels") or {}),
            )
            for data in found
        ]
        return tuple(sorted(networks, key=lambda network: network.name))

    def remove_network(self, network: Network) -> None:
        """Remove it. A missing one is removed."""
        with self._asking() as client, contextlib.suppress(docker.errors.NotFound):
            client.api.remove_network(network.id)

    def remove_volumes(self, project: str) -> None:
        """Remove the volumes of a Compose project, with what is in them."""
        with self._asking() as client:
            found = client.api.volumes(filters={"label": f"{PROJECT}={project}"})
            for volume in found["Volumes"] or ():
                with contextlib.suppress(docker.errors.NotFound):
                    client.api.remove_volume(volume["Name"])

    @contextmanager
    def _asking(self, *, timeout_s: int | None = _TIMEOUT_S) -> Iterator[docker.DockerClient]:
        """A client for one question. One each: the SDK's connections are not for threads."""
        where = f"the Docker engine at {self.socket}"
        try:
            client = docker.DockerClient(base_url=f"unix://{self.socket}", timeout=timeout_s)
        except (docker.errors.DockerException, OSError) as error:
            raise Unreachable(f"{where} does not answer: {_brief(error)}") from error
        try:
            yield client
        except docker.errors.APIError as error:
            raise Unreachable(f"{where}: {error.explanation or error}") from error
        except (docker.errors.DockerException, OSError) as error:
            raise Unreachable(f"{where} does not answer: {_brief(error)}") from error
        finally:
            client.close()


def _brief(error: Exception) -> str:
    text = str(error)
    if "Connection refused" in text or "ConnectionRefused" in text:
        return "nobody listens there. Start it (systemctl start docker)"
    if "Permission denied" in text:
        return "permission denied. Join its group (sudo usermod -aG docker $USER)"
    return text[:300]


def _text(data: bytes) -> str:
    return data.decode(errors="replace").rstrip("\r")
