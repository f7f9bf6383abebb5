"""What Envoy reads and whether it is good, whatever target runs it.

In: the gateway's resource, where its files are. Out: documents that were checked, ports that are
free, an Envoy brought to a change. Nothing that runs sees a document that failed its check.
"""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from enova.base.errors import ActionFailed
from enova.base.secret import Secret
from enova.effects import gateway, gateway_change, trace_ring
from enova.effects.drivers import ports
from enova.effects.drivers.folder import Meta, locked
from enova.effects.drivers.ground import Ground
from enova.effects.gateway_admin import GatewayAdmin
from enova.effects.packaged import template_text
from enova.stack.actions import Action
from enova.stack.render.envoy import render_bootstrap, render_files
from enova.stack.render.envoy_secrets import (
    CERTIFICATE_FILE,
    KEYS_FILE,
    render_api_keys,
    render_certificate,
)
from enova.stack.render.envoy_settings import GatewaySettings
from enova.stack.render.gateway_settings import GatewayPlaces, settings_of
from enova.stack.resources import GatewayResource

Documents = dict[str, dict[str, object]]

READY_S = 30.0


def step(action: Action) -> str:
    """What is being done to the gateway: start, change, stop."""
    return action.do.kind.removesuffix("-gateway")


def documents(
    ground: Ground,
    action: Action,
    resource: GatewayResource,
    *,
    places: GatewayPlaces,
    folder: Path,
    envoy: Path | None,
) -> Documents:
    """Everything Envoy reads, by file name. Raises ActionFailed when something is wrong with it.

    ``places`` are those that Envoy sees, ``folder`` that of its files on this machine. ``envoy``
    checks them; None: nobody does before they are used.
    """
    _check_certificate(action, resource)
    named = [(key.name, key.secret) for key in resource.keys]
    values = ground.secrets(named, action.address)
    _write_missing_members(ground, resource)
    try:
        settings = settings_of(resource, stack=ground.stack, places=places)
        files = render_files(settings, template_text("gateway.lua"))
        if values:
            keys = {name: Secret(value) for name, value in values.items()}
            files[KEYS_FILE] = render_api_keys(keys)
    except ValueError as error:
        raise ActionFailed(action.address, step(action), str(error)) from error
    if settings.tls is not None:
        files[CERTIFICATE_FILE] = render_certificate(settings.tls)
    if envoy is not None:
        here = replace(
            settings,
            members_dir=str(ground.members),
            access_log_path=str(ground.gateway / trace_ring.LOG_NAME),
        )
        _check(folder, action, here, files, envoy)
    return files


def change(action: Action, folder: Path, files: Documents, admin: GatewayAdmin) -> None:
    """Bring a running Envoy to these files. Raises ActionFailed; it keeps those it had then."""
    try:
        gateway_change.apply_files(folder, files, admin)
    except ActionFailed as error:
        raise ActionFailed(action.address, step(action), error.reason, error.log_tail) from error


def check_port(
    action: Action, resource: GatewayResource, *, ours: Callable[[], bool] = lambda: False
) -> None:
    """Raise ActionFailed when somebody else has the port. ``ours``: it is ours who has it."""
    if ports.is_free(resource.port, host=resource.host):
        return
    if not ports.is_free(0, host=resource.host):
        reason = f"{resource.host} is not an address of this machine"
        raise ActionFailed(action.address, step(action), reason)
    if ours():
        return
    raise ActionFailed(
        action.address,
        step(action),
        f"port {resource.port} on {resource.host} is taken by {ports.owner(resource.port)}. "
        "Stop it, or set gateway.port to a free one",
    )


def kept_hosts(before: Meta, wanted: GatewayResource) -> list[str]:
    """Addresses with a listener of their own that the wanted one covers, sorted."""
    wide = ipaddress.ip_address(wanted.host)
    if before.port != wanted.port or not wide.is_unspecified:
        return []
    there = {before.host, *cast(list[str], before.more.get("kept_hosts", []))} - {wanted.host}
    return sorted(host for host in there if ipaddress.ip_address(host).version == wide.version)


def _check(
    folder: Path,
    action: Action,
    settings: GatewaySettings,
    files: Mapping[str, Mapping[str, object]],
    envoy: Path,
) -> None:
    """Raise ActionFailed when Envoy finds something wrong."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="check-") as name:
        private = Path(name)
        secret = {file: files[file] for file in (KEYS_FILE, CERTIFICATE_FILE) if file in files}
        gateway.write_files(private, secret)
        there = replace(
            settings,
            keys_path=str(private / KEYS_FILE) if settings.keys_path else None,
            tls_path=str(private / CERTIFICATE_FILE) if settings.tls_path else None,
        )
        problems = gateway.validate(render_bootstrap(there, template_text("gateway.lua")), envoy)
    if problems:
        raise ActionFailed(action.address, step(action), problems[-1], problems)


def _write_missing_members(ground: Ground, resource: GatewayResource) -> None:
    """Envoy wants every membership file to exist, also an empty one."""
    ground.prepare(ground.members)
    with locked(ground.members):
        for service in {route.service for route in resource.routes}:
            if not gateway.members_path(ground.members, service).exists():
                gateway.write_members(ground.members, service, ())


def _check_certificate(action: Action, resource: GatewayResource) -> None:
    """Envoy would wait for a certificate it cannot read, and not say so. Raises ActionFailed."""
    if resource.tls_certificate is None:
        return
    import ssl  # only where TLS is asked for: it is slow to import

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            resource.tls_certificate, resource.tls_key
        )
    except (OSError, ssl.SSLError) as error:
        files = f"{resource.tls_certificate} and {resource.tls_key}"
        raise ActionFailed(
            action.address, step(action), f"certificate and key in {files}: {error}"
        ) from error
