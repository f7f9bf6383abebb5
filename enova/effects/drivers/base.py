"""What a target must be able to do. Drivers know actions, not plans.

``observe`` and ``inventory`` change nothing. ``perform`` does exactly one action and raises
``ActionFailed`` or ``Unreachable`` with the library's exception as cause. Every driver passes the
suite in ``tests/contract``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from enova.capacity.inventory import Inventory
from enova.stack.actions import Action
from enova.stack.observed import Observed

Progress = Callable[[str], None]
"""Told phases of a long action in words: ``weights``, ``compile``, ``ready``."""


@dataclass(frozen=True)
class ImageAnswer:
    """What a registry says of an image: its digest (``sha256:...``), or why there is none."""

    digest: str | None
    reason: str = ""


class Driver(Protocol):
    """One target for one stack."""

    def inventory(self) -> Inventory:
        """Hosts and devices of the pool, probed where the spec says ``auto``."""
        ...

    def runs_monitors(self) -> frozenset[str]:
        """Names of the monitors that the target can run now: their program or image is there.
        With ``reconciler`` among them, if it can run that too."""
        ...

    def ask_registries(self, references: Collection[str]) -> Mapping[str, ImageAnswer]:
        """An answer for each image, by reference, within seconds. Raises nothing for a registry
        that does not answer. A target without images answers nothing."""
        ...

    def gateway_metrics(self) -> str | None:
        """``host:port`` where the serving gateway shows its counters, None without one."""
        ...

    def tend(self) -> None:
        """Housekeeping between actions: bound what grows, such as the gateway's access log."""
        ...

    def observe(self) -> Observed:
        """What of this stack runs now. Foreign processes and containers never appear."""
        ...

    def perform(self, action: Action, progress: Progress) -> None:
        """Do one action and return when it is done. Doing it again is harmless.

        Raises ActionFailed (with the last log lines) or Unreachable.
        """
        ...

    def logs(self, instance: str, *, tail: int, follow: bool) -> Iterator[str]:
        """Log lines of an instance or component, oldest first. Raises Refused if there is none."""
        ...
