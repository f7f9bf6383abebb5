"""A plan in pieces that can be carried out side by side, and what the next plan must leave alone.

In: a plan, and later what of its pieces is not done yet. Out: ``Errand`` values, and the
``UnderWay`` with which the next plan is made while they are carried out. ``apply`` carries out its
plan as a whole; the reconciler splits, so that a slow step holds up only what depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, replace

from enova.stack.actions import Action, StartReplica
from enova.stack.changes import Symbol
from enova.stack.compare import UnderWay
from enova.stack.plan import Plan


@dataclass(frozen=True)
class Errand:
    """Actions that nothing else in their plan comes after, shares a group or an address with."""

    actions: tuple[Action, ...]
    leaving: frozenset[str] = frozenset()
    """Addresses that hold no replica once it is done."""

    @property
    def addresses(self) -> frozenset[str]:
        """What it changes."""
        return frozenset(action.address for action in self.actions)

    def without(self, done: Set[int]) -> Errand:
        """What is left of it. What is done at an address is never undone for another address."""
        left = tuple(action for action in self.actions if action.id not in done)
        return replace(self, actions=left)


def split(made: Plan) -> tuple[Errand, ...]:
    """The errands of a plan, in the order of their first actions."""
    leaving = frozenset(c.address for c in made.changes if c.symbol is Symbol.REMOVE)
    found: list[tuple[set[int | str], list[Action]]] = []
    for action in made.actions:
        ties: set[int | str] = {action.id, *action.after, action.group, action.address}
        tied = [piece for piece in found if piece[0] & ties]
        found = [piece for piece in found if not piece[0] & ties]
        actions = [one for _, piece in tied for one in piece]
        found.append((ties.union(*(keys for keys, _ in tied)), [*actions, action]))
    pieces = [tuple(sorted(actions, key=lambda a: a.id)) for _, actions in found]
    pieces.sort(key=lambda actions: actions[0].id)
    return tuple(Errand(actions, leaving & {a.address for a in actions}) for actions in pieces)


def under_way(left: Iterable[Errand]) -> UnderWay:
    """What errands are still about to do, given what is left of each of them."""
    errands = tuple(left)
    return UnderWay(
        stays={
            address: address not in errand.leaving
            for errand in errands
            for address in sorted(errand.addresses)
        },
        placements=tuple(
            action.do.placement
            for errand in errands
            for action in errand.actions
            if isinstance(action.do, StartReplica)
        ),
    )
