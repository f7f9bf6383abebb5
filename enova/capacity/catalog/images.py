"""Container images of engines and of the programs beside them, from the catalog's data.

In: an engine with its version, or a program's name. Out: the reference to pull. An image that the
spec names itself wins over these; that is the caller's to see to.
"""

from __future__ import annotations

from dataclasses import dataclass

import enova
from enova.capacity.catalog import data, engines


@dataclass(frozen=True)
class Image:
    """A reference by tag, the day on which it was last seen, and where."""

    reference: str
    checked: str
    source: str


def engine_image(name: str, version: str | None = None) -> Image:
    """The image of an engine at a version; None asks for the newest one known.

    Raises ValueError for an engine without an image, and for what ``engines.facts`` raises it.
    """
    facts = engines.facts(name, version)
    entries = data.read("images")["engines"]
    if name not in entries:
        known = ", ".join(sorted(entries))
        raise ValueError(f'no image of the engine "{name}" is known; there is one of {known}')
    # A build's own suffix (0.32.0+cpu) names no tag.
    return _image(entries[name], facts.version.lstrip("v").split("+")[0])


def program_image(name: str) -> Image:
    """The image of a program such as ``envoy``. Raises ValueError for an unknown one."""
    entries = data.read("images")["programs"]
    if name not in entries:
        known = ", ".join(sorted(entries))
        raise ValueError(f'no image of "{name}" is known; there are images of {known}')
    return _image(entries[name])


def programs() -> tuple[str, ...]:
    """Names of the programs that have an image, sorted."""
    return tuple(sorted(data.read("images")["programs"]))


def _image(entry: dict[str, str], version: str = "") -> Image:
    reference = entry["image"].format(version=version, enova=enova.__version__)
    return Image(reference, entry["checked"], entry["source"])
