"""The Compose project's file and networks: always exactly what should exist.

In: instances and components as noted in their folders. Out: a ``compose.yaml`` made of those notes
before anything is started, and networks for it. Every container is noted before it is made, so an
interrupted ``enova`` finds it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import cast

from enova.base.errors import ActionFailed, Refused
from enova.effects.drivers import docker_call
from enova.effects.drivers.docker_container import FOLDER
from enova.effects.drivers.docker_ground import Ground, free_address
from enova.effects.drivers.folder import Folder, Meta, locked
from enova.effects.state.files import replace_file
from enova.stack.render import compose

Document = compose.Document

SERVICES = "services"
"""In a meta's ``more``: its compose services by name. One, or two while a gateway moves."""
ADDRESSES = "addresses"
"""In a meta's ``more``: the address of each service inside."""

_VARIABLE = re.compile(r"(?<!\$)(?:\$\$)*\$\{(\w+):\?")
_OVERLAPS = re.compile(r"[Pp]ool overlaps|conflicts with network")
_TRIES = 5


class Notes:
    """What a stack's project is made of."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def note(
        self, folder: Folder, address: str, make: Callable[[compose.Project, str], Meta]
    ) -> Meta:
        """Choose an address, write the meta that ``make`` gives for it, and the project's file.

        ``make`` may read what the folder held. Raises ActionFailed when the engine has no room for
        the stack's network.
        """
        ground = self._ground
        ground.prepare(ground.run)
        refused: list[str] = []
        with locked(ground.run):
            self._refuse_another_owner()
            while True:
                if ground.subnet() is None:
                    ground.choose_subnet(refused)
                subnet = str(ground.subnet())
                meta = make(ground.project(), free_address(subnet, self._addresses()))
                ground.prepare(folder.path)
                folder.write_meta(meta)
                self.write()
                try:
                    self._make_networks(meta, address)
                except ActionFailed as error:
                    # Somebody else took the subnet between the look and the try.
                    if not _OVERLAPS.search(error.reason) or len(refused) >= _TRIES:
                        raise
                    refused.append(subnet)
                    ground.choose_subnet(refused)
                    continue
                return meta

    def rewrite(self, folder: Folder, meta: Meta) -> None:
        """Note a change of what is there, and bring the project's file to it."""
        with locked(self._ground.run):
            folder.write_meta(meta)
            self.write()

    def _addresses(self) -> set[str]:
        found: set[str] = set()
        for folder in self._ground.owned():
            meta = folder.meta()
            if meta is not None:
                found.update(addresses_of(meta).values())
        return found

    def write(self) -> None:
        """The project's file, from the notes."""
        services: dict[str, Document] = {}
        for folder in self._ground.owned():
            meta = folder.meta()
            if meta is not None:
                services.update(services_of(meta))
        text = compose.dump(compose.document(self._ground.project(), services))
        file = self._ground.file
        if not file.exists() or file.read_text() != text:
            replace_file(file, text.encode())

    def _make_networks(self, meta: Meta, address: str) -> None:
        """The networks of this meta's services, where they are missing."""
        name = next(iter(services_of(meta)))
        wanted = {
            f"{self._ground.project_name}_{network}"
            for network in cast(dict[str, object], services_of(meta)[name]["networks"])
        }
        if wanted <= {network.name for network in self._ground.engine.networks()}:
            return
        none = ("--no-deps", "--pull", "never", "--scale", f"{name}=0")
        words = ("up", "--no-start", *none, name)
        docker_call.compose(
            self._ground, *words, address=address, step="start", variables=self.blanks()
        )

    def _refuse_another_owner(self) -> None:
        """Raise Refused when this stack's containers belong to another state folder."""
        here = str(self._ground.run)
        for container in self._ground.labelled():
            there = container.labels.get(FOLDER, here)
            if there != here:
                raise Refused(
                    f"stack {self._ground.stack} runs on this Docker engine already, applied from "
                    f"another state folder ({there}). Destroy it there, or use another name or env"
                )

    def forget(self, folder: Folder, remove: Callable[[], None]) -> None:
        """Remove a folder's notes and its services from the project's file."""
        with locked(self._ground.run):
            remove()
            self.write()

    def blanks(self) -> dict[str, str]:
        """Something for every variable the file asks for: Compose reads all of it at every call,
        and only what is being started needs the true values."""
        text = self._ground.file.read_text()
        return dict.fromkeys(_VARIABLE.findall(text), "not-needed-by-this-call")


def services_of(meta: Meta) -> dict[str, Document]:
    """The compose services of a meta, by name."""
    return cast(dict[str, Document], meta.more.get(SERVICES, {}))


def addresses_of(meta: Meta) -> dict[str, str]:
    """The address inside of each service of a meta."""
    return cast(dict[str, str], meta.more.get(ADDRESSES, {}))


def with_service(meta: Meta, name: str, service: Document, ip: str) -> Meta:
    """The meta with one more service."""
    more = {
        **meta.more,
        SERVICES: {**services_of(meta), name: service},
        ADDRESSES: {**addresses_of(meta), name: ip},
    }
    return replace(meta, more=more)


def without_service(meta: Meta, name: str) -> Meta:
    """The meta without one of its services."""
    more = {
        **meta.more,
        SERVICES: {key: one for key, one in services_of(meta).items() if key != name},
        ADDRESSES: {key: ip for key, ip in addresses_of(meta).items() if key != name},
    }
    return replace(meta, more=more)


def secret_names(meta: Meta, service: str) -> frozenset[str]:
    """Variables of the container whose values are secret."""
    environment = cast(dict[str, str], services_of(meta).get(service, {}).get("environment", {}))
    return frozenset(name for name, value in environment.items() if _VARIABLE.search(value))
