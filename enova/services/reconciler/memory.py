"""The reconciler's memory as plain data and back, so that ``--once`` and a restart go on with it.

Damaged memory is not repaired by guessing: it begins anew, which only delays scaling down.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pydantic import TypeAdapter, ValidationError

from enova.base.digest import plain
from enova.services.reconciler.tick import Memory


@cache
def _adapter() -> TypeAdapter[Memory]:
    return TypeAdapter(Memory)


def memory_to_plain(memory: Memory) -> Mapping[str, object]:
    """The memory as JSON data."""
    data = plain(memory)
    return data if isinstance(data, dict) else {}


def memory_from_plain(data: Mapping[str, object] | None) -> Memory:
    """The memory written by ``memory_to_plain``; an empty one when there is none or it is old."""
    if data is None:
        return Memory()
    try:
        return _adapter().validate_python(data)
    except ValidationError:
        return Memory()
