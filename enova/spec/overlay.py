"""One tree laid over another: what ``--env prod`` adds to or changes in the base file.

In: trees in order, the base first. Out: one tree whose every value still knows the file it came
from. Maps merge key by key. A list replaces a list, unless every item of both is a map with a
``name``: then items of one name merge and new ones follow. A null takes a key away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from enova.base.source import Path
from enova.spec.tree import Entry, List, Map, Node, Scalar

SHORTHANDS: Mapping[tuple[str, ...], str] = {
    ("services", "*", "model"): "id",
    ("services", "*", "engine"): "name",
    ("services", "*", "traffic", "input_tokens"): "mean",
    ("services", "*", "traffic", "output_tokens"): "mean",
    ("services", "*", "goals", "ttft"): "p95",
    ("services", "*", "goals", "tpot"): "p95",
    ("services", "*", "goals", "itl"): "p95",
    ("services", "*", "goals", "e2e"): "p95",
}
"""Sections a bare scalar may stand for, with the key it stands for (``*`` is any service)."""


def shorthand_at(path: Path) -> str | None:
    """The key a bare scalar at ``path`` stands for, None where a scalar is only itself."""
    for pattern, key in SHORTHANDS.items():
        if len(pattern) == len(path) and all(
            part in ("*", here) for part, here in zip(pattern, path, strict=True)
        ):
            return key
    return None


def merge(base: Node, over: Node, path: Path = ()) -> Node:
    """``over`` laid on ``base``."""
    if isinstance(base, Scalar) and isinstance(over, Map) and base.value is not None:
        # `model: org/name` below, `model: {revision: x}` above: the base is the map it stands for.
        key = shorthand_at(path)
        if key is not None:
            base = Map({key: Entry(base.span, base)}, base.span, base.use)
    if isinstance(base, Map) and isinstance(over, Map):
        return _merge_maps(base, over, path)
    if isinstance(base, List) and isinstance(over, List):
        return _merge_lists(base, over, path)
    return over


def _merge_maps(base: Map, over: Map, path: Path) -> Map:
    entries = dict(base.entries)
    for key, entry in over.entries.items():
        if isinstance(entry.node, Scalar) and entry.node.value is None and not entry.node.written:
            entries.pop(key, None)
        elif key in entries:
            merged = merge(entries[key].node, entry.node, (*path, key))
            entries[key] = Entry(entry.key_span, merged)
        else:
            entries[key] = entry
    return replace(base, entries=entries)


def _merge_lists(base: List, over: List, path: Path) -> List:
    old, new = _by_name(base), _by_name(over)
    if old is None or new is None:
        return over
    items = [merge(old[name], new[name], path) if name in new else old[name] for name in old]
    items.extend(new[name] for name in new if name not in old)
    return replace(base, items=tuple(items))


def _by_name(node: List) -> dict[object, Node] | None:
    """Items by their ``name``; None unless each has its own."""
    named: dict[object, Node] = {}
    for item in node.items:
        entry = item.entries.get("name") if isinstance(item, Map) else None
        if entry is None or not isinstance(entry.node, Scalar) or entry.node.value in named:
            return None
        named[entry.node.value] = item
    return named or None
