"""The reconciler's memory as plain data and back, so that ``--once`` and a restart go on with it.

Damaged memory is not repaired by guessing: it begins anew, which only delays scaling down.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pydantic import TypeAdapter, ValidationError

from enova.base.digest import plain
from enova.base.errors import Refused
from enova.effects.state.store import StateDir
from enova.services.reconciler.tick import Memory


def read_memory(state: StateDir) -> Memory:
    """What earlier ticks left; when it is damaged nothing, for healing must not wait for people."""
    try:
        return memory_from_plain(state.read_memory())
    except Refused:
        return Memory()


def write_memory(state: StateDir, memory: Memory) -> None:
    """Keep it for the next tick. Raises ActionFailed when the disk refuses."""
    state.write_memory(memory_to_plain(memory))


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
