"""The images a stack runs: which, for what, and how a reference reads once a registry was asked.

In: the spec, its choices, the monitors that should run. Out: references by what they are for: a
service, the gateway's or a monitor's address. As the spec or the catalog names them they go by
tag; with a digest they are the same bytes wherever and whenever they are pulled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from enova.base import address as addresses
from enova.capacity.catalog import images
from enova.capacity.sizing.choice import Choice
from enova.spec.model import Spec
from enova.stack import monitoring

TARGETS = frozenset({"compose", "kubernetes"})
"""Those that run images."""

ENVOY = "envoy"


def used(spec: Spec, choices: Mapping[str, Choice], *, monitors: Collection[str]) -> dict[str, str]:
    """References by tag, by what they are for; none on a target that runs programs.

    ``monitors``: names of those that the target can run. Raises ValueError for an engine of which
    no image is known.
    """
    if spec.pool.target not in TARGETS:
        return {}
    found = {addresses.GATEWAY: images.program_image(ENVOY).reference}
    for name, service in spec.services.items():
        choice = choices[name]
        stated = service.engine.image
        known = stated or images.engine_image(choice.engine, choice.engine_version).reference
        found[name] = known
    for monitor in monitoring.monitors(spec, choices, runs=monitors):
        known = monitor.image or images.program_image(monitor.name).reference
        found[monitor.address] = known
    return dict(sorted(found.items()))


def pinned(reference: str, digest: str | None) -> str:
    """``name:tag@sha256:...``: the tag is for people, the digest is what counts."""
    return reference if digest is None else f"{reference}@{digest}"


def is_pinned(reference: str) -> bool:
    """Whether it names bytes and not a tag, which may become another image."""
    return "@sha256:" in reference


def by_tag(reference: str) -> str:
    """The reference without its digest."""
    return reference.partition("@")[0]
