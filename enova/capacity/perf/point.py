"""The small types every performance model speaks: a figure with its doubt, and a step time.

``StepTime`` is what the replica model asks of a performance model; ``Figure`` is how every number
leaves one. Nothing here computes a prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

Source = Literal["data sheet", "fitted", "measured here"]
"""Where a number comes from, from least to most certain."""

SOURCES: tuple[Source, ...] = ("data sheet", "fitted", "measured here")


class StepTime(Protocol):
    """Seconds one engine step takes.

    ``prefill_tokens``: prompt tokens computed in the step. ``decodes``: sequences that produce
    their next token. ``context_tokens``: cached tokens the step reads, summed over its sequences.
    Must be affine in ``context_tokens`` when the other two are fixed: the replica model relies
    on it when it takes many quiet steps at once.
    """

    def __call__(self, *, prefill_tokens: int, decodes: int, context_tokens: int) -> float: ...


@dataclass(frozen=True)
class LinearStepTime:
    """A measured step law: seconds = base + the rest times their counts (see ``StepTime``)."""

    base: float
    per_prefill_token: float
    per_decode: float
    per_context_token: float

    def __call__(self, *, prefill_tokens: int, decodes: int, context_tokens: int) -> float:
        return (
            self.base
            + self.per_prefill_token * prefill_tokens
            + self.per_decode * decodes
            + self.per_context_token * context_tokens
        )


@dataclass(frozen=True)
class ScaledStepTime:
    """Another step time, slower by ``factor``: the upper end of an interval, or a slow replica."""

    inner: StepTime
    factor: float

    def __call__(self, *, prefill_tokens: int, decodes: int, context_tokens: int) -> float:
        return self.factor * self.inner(
            prefill_tokens=prefill_tokens, decodes=decodes, context_tokens=context_tokens
        )


@dataclass(frozen=True)
class Figure:
    """One number with its interval and where it comes from. The unit is that of its field."""

    value: float
    low: float
    high: float
    source: Source = "data sheet"

    @classmethod
    def from_plain(cls, data: Mapping[str, object]) -> Figure:
        """The figure written by ``base.digest.plain``. Raises ValueError on anything else."""
        source = data.get("source")
        if source not in SOURCES:
            raise ValueError(f"a figure's source is one of {', '.join(SOURCES)}, not {source!r}")
        numbers = [data.get(key) for key in ("value", "low", "high")]
        if not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
            raise ValueError(f"a figure needs the numbers value, low and high, not {numbers!r}")
        value, low, high = (float(str(n)) for n in numbers)
        return cls(value, low, high, next(s for s in SOURCES if s == source))
