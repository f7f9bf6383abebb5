"""What the replicas of each service carry within its goals, worked out once for each choice.

In: what was applied. Out: a ``CapacityTable`` a service. Simulating a fleet takes longer than a
tick, so tables are kept while choice, goals and traffic stay the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from enova.base.errors import Refused
from enova.capacity.sizing.choice import Choice
from enova.capacity.sizing.from_spec import goals_of, workload_of
from enova.capacity.sizing.table import capacity_table
from enova.capacity.workload import Workload
from enova.effects.sources.traces import read_lengths
from enova.policy.scaling import CapacityTable
from enova.spec.model import Goals, Traffic
from enova.stack.plan import Ask


def capacity_tables(applied: Ask) -> Mapping[str, CapacityTable]:
    """The table of every service."""
    return {
        name: _table(_Question(applied.choices[name], service.goals, service.traffic))
        for name, service in sorted(applied.spec.services.items())
    }


class _Question:
    """A choice with the goals and traffic it answers, compared by what they say."""

    def __init__(self, choice: Choice, goals: Goals, traffic: Traffic) -> None:
        self.choice, self.goals, self.traffic = choice, goals, traffic
        self._key = repr((choice, goals, traffic))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Question) and self._key == other._key


@lru_cache(maxsize=64)
def _table(question: _Question) -> CapacityTable:
    return capacity_table(
        question.choice,
        goals=goals_of(question.goals),
        workload=traffic_of(question.traffic),
    )


def traffic_of(traffic: Traffic) -> Workload:
    """The stated traffic, with the lengths of its trace while that can still be read."""
    stated = workload_of(traffic)
    if traffic.trace is None:
        return stated
    try:
        prompts, answers = read_lengths(traffic.trace)
    except Refused:
        return stated
    return replace(stated, input=prompts, output=answers)
