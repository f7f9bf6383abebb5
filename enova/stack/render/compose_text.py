"""The text of a compose file: what a person reviews, and what ``docker compose`` reads.

In: the document. Out: YAML in the order of the document, under a comment that says whose it is,
what it needs from the environment, and which images are not pinned.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from enova.stack.render.compose_parts import INSIDE, Document

_SHORT = 60

_SECRET = re.compile(r"(?<!\$)(?:\$\$)*\$\{(?P<name>\w+):\?(?P<where>[^}]*)\}")


class _Dumper(yaml.SafeDumper):
    """No anchors, lists indented below their key; short lists and mounts on a line each."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def represent_sequence(
        self,
        tag: str,
        sequence: Any,  # noqa: ANN401 - as the library has it
        flow_style: bool | None = None,
    ) -> yaml.SequenceNode:
        words = [item for item in sequence if isinstance(item, str)]
        short = len(words) == len(sequence) and sum(len(word) + 4 for word in words) <= _SHORT
        return super().represent_sequence(tag, sequence, flow_style=short or flow_style)

    def represent_mapping(
        self,
        tag: str,
        mapping: Any,  # noqa: ANN401 - as the library has it
        flow_style: bool | None = None,
    ) -> yaml.MappingNode:
        mount = {"type", "target"} <= mapping.keys()
        return super().represent_mapping(tag, mapping, flow_style=mount or flow_style)


def dump(document: Document) -> str:
    """The file's text. The same document gives the same text."""
    lines = [f"# {line}" if line else "#" for line in _about(document)]
    body = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)
    return "\n".join([*lines, "", body])


def secrets_in(document: Document) -> dict[str, str]:
    """Variables that the file takes from the environment, and where each secret is read; sorted."""
    found = {
        match["name"]: match["where"]
        for text in _texts(document)
        for match in _SECRET.finditer(text)
    }
    return dict(sorted(found.items()))


def _about(document: Document) -> list[str]:
    lines = [
        f"Made by enova for {_whose(document)}, Compose project {document['name']}.",
        "Edits are overwritten by the next apply, and seen as drift until then.",
    ]
    needed = secrets_in(document)
    if needed:
        lines += ["", "Taken from the environment of `docker compose`, or from .env beside this:"]
        lines += [f"  {name}  ({where})" for name, where in needed.items()]
    loose = _unpinned(document)
    if loose:
        lines += ["", "Pinned by tag, not by digest:"]
        lines += [f"  {image}" for image in loose]
    return lines


def _whose(document: Document) -> str:
    networks = document["networks"]
    assert isinstance(networks, dict)
    labels = networks[INSIDE]["labels"]
    env = labels["enova.env"]
    return f"stack {labels['enova.stack']}" + (f", environment {env}" if env else "")


def _unpinned(document: Document) -> list[str]:
    services = document["services"]
    assert isinstance(services, dict)
    images = {str(service["image"]) for service in services.values()}
    return sorted(image for image in images if "@sha256:" not in image)


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return []
