"""How long an emulated answer is when nothing but the model would end it.

In: mean and coefficient of variation. Out: token counts from a log-normal law, the same for the
same seed and order of requests.
"""

from __future__ import annotations

import math
from random import Random


class OutputLengths:
    """Draws lengths; a request that carries its own seed gets the same length every time."""

    def __init__(self, *, mean: float, cv: float, seed: int) -> None:
        variance = math.log1p(cv * cv)
        self._sigma = math.sqrt(variance)
        self._mu = math.log(mean) - variance / 2
        self._random = Random(seed)  # noqa: S311 - lengths, not secrets

    def draw(self, seed: int | None = None) -> int:
        """At least one token."""
        source = self._random if seed is None else Random(seed)  # noqa: S311
        return max(1, round(source.lognormvariate(self._mu, self._sigma)))
