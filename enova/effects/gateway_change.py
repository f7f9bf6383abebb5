"""A running gateway is brought to other files, or left with those it had.

In: the files of ``stack.render.envoy.render_files`` and the admin interface of the process that
watches them. Out: Envoy serves them. No socket that stays is closed and no open request notices:
what is new is there before anything refers to it, and what is old goes last. When Envoy refuses a
file, all of them are put back.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from enova.base.address import GATEWAY
from enova.base.digest import digest, plain
from enova.base.errors import ActionFailed, EnovaError
from enova.effects.gateway import write_document
from enova.effects.gateway_admin import GatewayAdmin
from enova.stack.render.envoy import CLUSTERS, LISTENERS, ROUTES
from enova.stack.render.envoy_secrets import CERTIFICATE_FILE, KEYS_FILE

Document = Mapping[str, object]

_SECRETS = (KEYS_FILE, CERTIFICATE_FILE)
_DISCOVERED = (CLUSTERS, ROUTES, LISTENERS)
_QUEUE_S = 0.1
"""Connections that came to an address before a wider or narrower one was there are accepted by
then: closing it would reset them."""


def apply_files(
    directory: Path,
    files: Mapping[str, Document],
    admin: GatewayAdmin,
    *,
    deadline_s: float = 30.0,
) -> None:
    """Bring the gateway that watches ``directory`` to ``files``; the bootstrap stays as it is.

    Raises ActionFailed with Envoy's reason when it refuses one or has not taken it after
    ``deadline_s`` seconds, Unreachable when it does not answer. The former files are in force
    then. Doing it again is harmless, also after it was interrupted.
    """
    change = _Change(directory, admin, deadline_s)
    before = {
        name: cast(Document, json.loads((directory / name).read_text()))
        for name in (*_SECRETS, *_DISCOVERED)
        if (directory / name).exists()
    }
    missing = [name for name in _DISCOVERED if name not in before]
    if missing:
        raise ActionFailed(GATEWAY, "change", f"{directory} holds no {', '.join(missing)}")
    try:
        change.bring(files)
    except (EnovaError, OSError):
        with contextlib.suppress(EnovaError):
            change.bring(before)
        raise


class _Change:
    """The steps of one change."""

    def __init__(self, directory: Path, admin: GatewayAdmin, deadline_s: float) -> None:
        self._directory = directory
        self._admin = admin
        self._deadline_s = deadline_s

    def bring(self, files: Mapping[str, Document]) -> None:
        """From what Envoy has now to ``files``."""
        for name in _SECRETS:
            if name in files:
                self._put_secret(name, files[name])
        self._put(CLUSTERS, self._with_what_is_there(CLUSTERS, files))
        self._put(ROUTES, files[ROUTES])
        both = self._with_what_is_there(LISTENERS, files)
        self._put(LISTENERS, both)
        if both != files[LISTENERS]:
            time.sleep(_QUEUE_S)
        self._put(LISTENERS, files[LISTENERS])
        self._put(CLUSTERS, files[CLUSTERS])
        for name in _SECRETS:
            if name not in files:
                (self._directory / name).unlink(missing_ok=True)

    def _put(self, name: str, document: Document) -> None:
        """Write one file and wait until Envoy serves it."""
        path, version = self._directory / name, str(document["version_info"])
        if self._admin.version(name) == version and json.loads(path.read_text()) == plain(document):
            return
        rejected = self._admin.rejections(name)
        write_document(path, document)
        self._await(name, version, rejected)

    def _put_secret(self, name: str, document: Document) -> None:
        """Write a file that Envoy reads only while a listener refers to it."""
        path = self._directory / name
        known = path.exists()
        if known and json.loads(path.read_text())["resources"] == plain(document["resources"]):
            return
        version = secrets.token_hex(8)
        rejected = self._admin.rejections(name)
        write_document(path, {**document, "version_info": version})
        if known:
            self._await(name, version, rejected)

    def _await(self, name: str, version: str, rejected: int) -> None:
        if self._admin.wait_version(name, version, rejected=rejected, deadline_s=self._deadline_s):
            return
        reasons = self._admin.rejection_reasons()
        late = f"Envoy has not taken {name} after {self._deadline_s:g} s"
        if self._admin.rejections(name) > rejected:
            late = f"Envoy refuses {name}"
        raise ActionFailed(GATEWAY, "change", "; ".join(reasons) or late, reasons)

    def _with_what_is_there(self, name: str, files: Mapping[str, Document]) -> Document:
        """The wanted resources and, after them, those that Envoy has under other names."""
        wanted = cast(list[dict[str, object]], files[name]["resources"])
        before = json.loads((self._directory / name).read_text())
        if self._admin.version(name) != before.get("version_info"):
            return files[name]  # Envoy refused that file, or never got to read it
        names = {resource["name"] for resource in wanted}
        more = [resource for resource in before["resources"] if resource["name"] not in names]
        if not more:
            return files[name]
        resources = [*wanted, *more]
        return {"version_info": digest(resources), "resources": resources}
