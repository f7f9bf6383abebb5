"""The table of choices and rejections as data: what was looked at, what it gives, why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from enova.capacity.perf.memory import Line
from enova.capacity.perf.point import Figure
from enova.capacity.sizing.choice import Choice


@dataclass(frozen=True)
class Row:
    """One combination. ``verdict`` is ``chosen``, ``dearer``, ``not simulated`` or ``rejected``.

    ``latencies`` and ``attainment`` (the share of requests within all goals at once) are at the
    rate one replica would carry; ``kv_spare`` the mean share of the KV cache that stays free;
    ``usd_per_million_tokens`` over output tokens at the peak.
    """

    label: str
    verdict: str
    reason: str
    device: str = ""
    tensor_parallel: int = 0
    replicas: int = 0
    devices: int = 0
    rate_per_replica: float | None = None
    latencies: Mapping[str, Figure] = field(default_factory=dict)
    attainment: Figure | None = None
    kv_spare: float | None = None
    usd_per_hour: float | None = None
    usd_per_million_tokens: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """What sizing says about one service: the choice, the table behind it, its memory, notes.

    ``numbers`` says in words where the figures come from; ``not_predicted`` which stated goals no
    figure answers; ``sensitivity`` what would move the figures.
    """

    choice: Choice
    rows: tuple[Row, ...]
    ledger: tuple[Line, ...]
    numbers: str
    not_predicted: tuple[str, ...] = ()
    sensitivity: tuple[str, ...] = ()

    @property
    def emulated(self) -> bool:
        """True when the numbers are those of an emulated engine."""
        return self.choice.emulated


_ORDER = {"chosen": 0, "dearer": 1, "not simulated": 2, "rejected": 3}


def ordered(rows: Iterable[Row]) -> tuple[Row, ...]:
    """The chosen first, then by cost, rejections last."""
    return tuple(
        sorted(
            rows,
            key=lambda row: (
                _ORDER[row.verdict],
                row.usd_per_hour if row.usd_per_hour is not None else float("inf"),
                row.devices,
                row.label,
            ),
        )
    )
