"""The stack's own reconciler: whether one of its containers is that, and what it needs.

In: the spec, the resources it asks for, and what the target can run. Out: a ``ReconcilerResource``
or none, and why ``auto`` is none. It has what the stack reads besides its state, at the same paths
and by the same names; not the models: only engines read them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from posixpath import dirname

from enova.base.address import RECONCILER
from enova.base.secret import SecretRef
from enova.capacity.catalog import images
from enova.spec.model import Spec
from enova.stack.resources import (
    GatewayResource,
    MonitorResource,
    ReconcilerResource,
    ServiceResource,
    Stack,
)

PROGRAM = "enova"
"""Whose image it is, by its name in the catalog."""


def image() -> str:
    """The image of this very version."""
    return images.program_image(PROGRAM).reference


def reconciler(
    spec: Spec,
    services: Iterable[ServiceResource],
    gateway: GatewayResource,
    monitors: Iterable[MonitorResource],
    *,
    runs: Collection[str],
) -> ReconcilerResource | None:
    """The reconciler that should run. ``runs``: what the target can run, this by its address."""
    pool = spec.pool
    if pool.target != "compose" or pool.reconciler == "off":
        return None
    secrets = list(_secrets(services, gateway, monitors))
    if pool.reconciler == "auto" and (RECONCILER not in runs or _unreadable(secrets)):
        return None
    traces = [s.traffic.trace for s in spec.services.values() if s.traffic.trace is not None]
    files = [secret.file for secret in secrets if secret.file is not None]
    pems = [path for path in (gateway.tls_certificate, gateway.tls_key) if path is not None]
    return ReconcilerResource(
        image=image(),
        variables=tuple(sorted({secret.env for secret in secrets if secret.env is not None})),
        files=tuple(sorted({path for path in (*files, *traces) if path.startswith("/")})),
        folders=tuple(sorted({dirname(path) for path in pems})),
    )


def why_off(spec: Spec, stack: Stack, *, runs: Collection[str]) -> str:
    """Why ``auto`` is ``off`` here and what changes that; "" where nothing is to be said."""
    if spec.pool.target != "compose" or spec.pool.reconciler != "auto" or stack.gateway is None:
        return ""
    unreadable = _unreadable(_secrets(stack.services, stack.gateway, stack.monitors))
    if unreadable:
        return f"its container cannot read a secret: {unreadable}"
    if RECONCILER not in runs:
        return f"the image {image()} is not here (make image)"
    return ""


def _secrets(
    services: Iterable[ServiceResource],
    gateway: GatewayResource,
    monitors: Iterable[MonitorResource],
) -> Iterator[SecretRef]:
    for service in services:
        yield from (secret for _, secret in service.template.secret_env)
    yield from (key.secret for key in gateway.keys)
    for monitor in monitors:
        yield from (secret for _, secret in monitor.secrets)


def _unreadable(secrets: Iterable[SecretRef]) -> str:
    """The first that a container cannot have, and why; "" when it can have all."""
    return next((f"{s.describe()} {why}" for s in secrets if (why := s.why_not_elsewhere())), "")
