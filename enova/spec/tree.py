"""The tree between YAML text and plain data: every value knows where it was written.

In: nodes from ``spec.yaml``, rewritten by ``spec.interpolate`` and ``spec.overlay``. Out:
``flatten`` gives plain data for validation and the ``SourceMap`` beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from enova.base.source import Path, SourceMap, Span

Plain = str | int | float | bool | None


@dataclass(frozen=True)
class Scalar:
    """One leaf. ``plain`` says it was written without quotes, so its text may be a number."""

    value: Plain
    span: Span
    plain: bool = True
    written: str | None = None
    """The text before interpolation, kept only where interpolation changed it."""
    use: Span | None = None


@dataclass(frozen=True)
class Entry:
    """One key of a map with where the key stands."""

    key_span: Span
    node: Node


@dataclass(frozen=True)
class Map:
    """Keys are always text; the order is that of the file."""

    entries: Mapping[str, Entry]
    span: Span
    use: Span | None = None


@dataclass(frozen=True)
class List:
    """Items in order."""

    items: tuple[Node, ...]
    span: Span
    use: Span | None = None


Node = Scalar | Map | List


@dataclass
class Flat:
    """Plain data with, beside it, the positions and the text that interpolation replaced."""

    data: object = None
    values: dict[Path, Span] = field(default_factory=dict)
    keys: dict[Path, Span] = field(default_factory=dict)
    uses: dict[Path, Span] = field(default_factory=dict)
    written: dict[Path, str] = field(default_factory=dict)

    def sources(self, lines: Mapping[str, tuple[str, ...]]) -> SourceMap:
        """The positions with the text of the files."""
        return SourceMap(values=self.values, keys=self.keys, lines=lines, uses=self.uses)


def flatten(node: Node) -> Flat:
    """Plain data and positions of a tree. Depth is bounded by the parser, so this may recurse."""
    flat = Flat()
    flat.data = _plain(node, (), flat)
    return flat


def _plain(node: Node, path: Path, flat: Flat) -> object:
    flat.values[path] = node.span
    if node.use is not None:
        flat.uses[path] = node.use
    if isinstance(node, Scalar):
        if node.written is not None:
            flat.written[path] = node.written
        return node.value
    if isinstance(node, List):
        return [_plain(item, (*path, index), flat) for index, item in enumerate(node.items)]
    data = {}
    for key, entry in node.entries.items():
        flat.keys[*path, key] = entry.key_span
        data[key] = _plain(entry.node, (*path, key), flat)
    return data
