"""What was last applied. Small, versioned, without secrets; the target keeps it.

``serial`` grows by one with every execution, also a failed one. ``document``, ``choices`` and
``images`` change only when an execution succeeded, so they always name a state that served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from enova.base.digest import digest

SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """The last applied state of one stack in one environment (``env`` is "" without overlay)."""

    stack: str
    env: str = ""
    serial: int = 0
    document: Mapping[str, object] | None = None
    """The spec after overlay and interpolation, as plain data; None when nothing is applied."""
    choices: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """The locked choice of each service, as plain data."""
    images: Mapping[str, str] = field(default_factory=dict)
    """The image of each part that runs one (``stack.images.used``), with its digest if known."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Replicas last ordered, by service. Belongs to the scaler, which notes it as it orders."""
    protected: tuple[str, ...] = ()
    monitors_stopped: bool = False
    """The monitoring part was stopped by itself and stays so until it is started again."""
    applying: bool = False
    """An execution of this serial began and has not ended."""
    schema: int = SCHEMA

    @property
    def content_digest(self) -> str:
        """What a saved plan binds to: document, choices and images, not what moves by itself or by
        verbs of its own (serial, counts, whether monitoring is stopped)."""
        content = [self.document, self.choices, sorted(self.protected)]
        # Those of before images were kept, and of targets without any, have the digest they had.
        return digest([*content, self.images] if self.images else content)
