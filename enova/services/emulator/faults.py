"""The faults an emulator can show, as one value that the command line and a request can set.

In: JSON as posted to ``/emulator/faults``. Out: a ``Faults`` value, or a sentence about what is
wrong with it. Acting on it is the server's and the engine's work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class Faults:
    """``slow`` multiplies step times; ``hang`` stops all progress while ``/health`` answers 200;
    ``unavailable`` answers 503 everywhere; ``crash_after`` exits with ``crash_code`` when that many
    more requests have arrived (0: at once)."""

    slow: float = 1.0
    hang: bool = False
    unavailable: bool = False
    crash_after: int | None = None
    crash_code: int = 1

    def to_plain(self) -> dict[str, object]:
        """As ``/emulator/faults`` shows it."""
        return asdict(self)

    def changed(self, data: Mapping[str, object]) -> Faults:
        """This value with the posted fields replaced. Raises ValueError with a sentence."""
        unknown = sorted(set(data) - set(self.to_plain()))
        if unknown:
            raise ValueError(
                f"unknown fault {', '.join(unknown)}; known: {', '.join(self.to_plain())}"
            )
        result = self
        for name, value in data.items():
            if name == "slow":
                result = replace(result, slow=_factor(name, value))
            elif name == "hang":
                result = replace(result, hang=_flag(name, value))
            elif name == "unavailable":
                result = replace(result, unavailable=_flag(name, value))
            elif name == "crash_after":
                result = replace(result, crash_after=None if value is None else _whole(name, value))
            else:
                result = replace(result, crash_code=_whole(name, value))
        return result


def _factor(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is a positive factor")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is a positive factor")
    return float(value)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is true or false")
    return value


def _whole(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} is a whole number from 0")
    return value
