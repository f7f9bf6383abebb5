"""Differences as people read them: an address, a symbol, a reason, fields.

In: differences from ``compare`` and ``settings``. Out: ``Change`` values, the lines of a plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from enova.base import address as addresses
from enova.stack.compare import ComponentDifference, FieldChange, SlotDifference, Verdict
from enova.stack.owners import Reason
from enova.stack.settings import SettingsDifference

TAKES = frozenset({Verdict.START, Verdict.REPLACE})
"""Verdicts that need room in the pool."""


class Symbol(StrEnum):
    """What happens to an address."""

    ADD = "+"
    REMOVE = "-"
    UPDATE = "~"
    REPLACE_START_FIRST = "±"
    REPLACE_STOP_FIRST = "∓"
    WAIT = "…"


MEANING: Mapping[Symbol, str] = {
    Symbol.ADD: "add",
    Symbol.REMOVE: "remove",
    Symbol.UPDATE: "change in place",
    Symbol.REPLACE_START_FIRST: "replace, starting the new one first",
    Symbol.REPLACE_STOP_FIRST: "replace, stopping the old one first",
    Symbol.WAIT: "waits before it is tried again",
}


@dataclass(frozen=True)
class Change:
    """One difference with its reason."""

    address: str
    symbol: Symbol
    reason: Reason
    fields: tuple[FieldChange, ...] = ()
    detail: str = ""
    instance: str | None = None

    @property
    def is_count(self) -> bool:
        """True when the spec's bounds alone add or remove it."""
        return self.reason is Reason.SPEC_CHANGED and not self.fields


def slot_change(
    difference: SlotDifference, mode: str = "", *, waits: float | None = None
) -> Change:
    """The change of one slot. ``mode`` says how a replacement goes, ``waits`` that it must wait."""
    symbols = {
        Verdict.START: Symbol.ADD,
        Verdict.REMOVE: Symbol.REMOVE,
        Verdict.FINISH: Symbol.UPDATE,
        Verdict.WEIGH: Symbol.UPDATE,
        Verdict.KEEP: Symbol.UPDATE,
        Verdict.CHANGE: Symbol.UPDATE,
        Verdict.REPLACE: Symbol.REPLACE_STOP_FIRST
        if mode == "stop-first"
        else Symbol.REPLACE_START_FIRST,
    }
    symbol, detail = symbols[difference.verdict], difference.detail
    if waits is not None and difference.verdict in TAKES:
        symbol = Symbol.WAIT
        detail = f"{detail}; " if detail else ""
        detail += "it failed repeatedly, back-off holds the next start"
    return Change(
        address=difference.address,
        symbol=symbol,
        reason=difference.reason or Reason.INTERRUPTED,
        fields=difference.fields,
        detail=detail,
        instance=difference.instance.id if difference.instance else None,
    )


def component_changes(difference: ComponentDifference) -> list[Change]:
    """The change of the gateway or a monitor, none when it stays."""
    symbols = {
        Verdict.START: Symbol.ADD,
        Verdict.REMOVE: Symbol.REMOVE,
        Verdict.REPLACE: Symbol.REPLACE_STOP_FIRST,
        Verdict.CHANGE: Symbol.UPDATE,
        Verdict.KEEP: Symbol.UPDATE,
    }
    if difference.reason is None:
        return []
    return [
        Change(
            address=difference.address,
            symbol=symbols[difference.verdict],
            reason=difference.reason,
            fields=difference.fields,
            detail=difference.detail,
            instance=difference.component.id if difference.component else None,
        )
    ]


def settings_change(difference: SettingsDifference) -> Change:
    """The change of settings that nothing running has to be touched for."""
    return Change(difference.address, Symbol.UPDATE, difference.reason, difference.fields)


def order(address: str) -> tuple[int, str, int]:
    """Services first, by slot, then what belongs to the stack."""
    parsed = addresses.parse_replica(address)
    return (0, parsed[0], parsed[1]) if parsed else (1, address, 0)
