"""Where in the user's files a value was written. Kept beside the data, never inside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Path = tuple[str | int, ...]
"""Keys and list indices from the root of a document: ``("services", "chat", "goals", "ttft")``."""


def is_inside(data: object, part: str | int) -> bool:
    """Whether ``data`` is a map with that key or a list with that index."""
    if isinstance(data, dict):
        return part in data
    return isinstance(data, list) and isinstance(part, int) and 0 <= part < len(data)


@dataclass(frozen=True, order=True)
class Span:
    """One stretch of one line. ``line`` and ``column`` count from 1; ``length`` in characters."""

    file: str
    line: int
    column: int
    length: int = 1


@dataclass(frozen=True)
class SourceMap:
    """Path to span, for values and for keys, over one or more files, with their text by line.

    ``uses`` holds the span of each ``*alias``: the value of such a path lies at its anchor.
    """

    values: Mapping[Path, Span] = field(default_factory=dict)
    keys: Mapping[Path, Span] = field(default_factory=dict)
    lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    uses: Mapping[Path, Span] = field(default_factory=dict)

    def find(self, path: Path, *, prefer_key: bool = False) -> Span | None:
        """The span at ``path``, or that of its nearest known parent."""
        first, second = (self.keys, self.values) if prefer_key else (self.values, self.keys)
        for end in range(len(path), -1, -1):
            here = path[:end]
            for spans in (first, second) if end == len(path) else (self.keys, self.values):
                if here in spans:
                    return spans[here]
        return None

    def line_text(self, span: Span) -> str | None:
        """The source line a span lies on, None when its text is not known."""
        lines = self.lines.get(span.file, ())
        return lines[span.line - 1] if 0 < span.line <= len(lines) else None

    def used_at(self, path: Path) -> Span | None:
        """Where the alias stands through which ``path`` got its value, None when there is none."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.uses:
                return self.uses[path[:end]]
        return None
