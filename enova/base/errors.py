"""Six exceptions, named by what the reader does next; ``cli/exits.py`` maps them to exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enova.base.problems import Problem


class EnovaError(Exception):
    """Base of the six. ``str(error)`` is one or more sentences for the person at the terminal."""


class SpecError(EnovaError):
    """Fix these lines. Carries every problem found, never only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problem.summary() for problem in self.problems))


class Infeasible(EnovaError):
    """Relax one of these: no configuration meets the goals on this pool.

    ``binding`` names the limit that bound, ``ways_out`` the smallest changes that would fit.
    """

    def __init__(self, subject: str, binding: str, ways_out: Sequence[str] = ()) -> None:
        self.subject = subject
        self.binding = binding
        self.ways_out = tuple(ways_out)
        ways = "".join(f"\n  - {way}" for way in self.ways_out)
        super().__init__(
            f"{subject}: no configuration meets the goals. {binding}"
            + (f"\nWhat would fit:{ways}" if ways else "")
        )


class Refused(EnovaError):
    """Do this first: the plan is stale, the lease is held, a guard or missing consent stops it."""


class Unreachable(EnovaError):
    """Retry: a host, an engine or an endpoint did not answer."""


class ActionFailed(EnovaError):
    """One step failed: its address, what it was doing, why, and the last log lines."""

    def __init__(self, address: str, step: str, reason: str, log_tail: Sequence[str] = ()) -> None:
        self.address = address
        self.step = step
        self.reason = reason
        self.log_tail = tuple(log_tail)
        super().__init__(f"{address}: {step} failed: {reason}")


class Bug(EnovaError):
    """An invariant of enova itself is broken; the CLI writes a report file."""
