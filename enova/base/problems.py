"""What is wrong with what a user wrote, as data. Printing happens at the edge.

A check returns ``Problem`` values with a code and a path; ``locate`` adds the span. The registry
of codes (``spec/problem_codes.py``) holds the page that ``enova explain CODE`` prints.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from enova.base.source import Path, SourceMap, Span


@dataclass(frozen=True)
class Problem:
    """One thing to fix. ``message`` says what is wrong, ``hint`` what to write instead."""

    code: str
    message: str
    path: Path = ()
    hint: str = ""
    at_key: bool = False
    span: Span | None = None
    line_text: str | None = None

    def where(self) -> str:
        """``file:line:column`` when known, else the dotted path."""
        if self.span is not None:
            return f"{self.span.file}:{self.span.line}:{self.span.column}"
        return ".".join(str(part) for part in self.path)

    def summary(self) -> str:
        """The problem on one line."""
        hint = f" {self.hint}" if self.hint else ""
        return f"{self.where()}  {self.code}  {self.message}{hint}".strip()


def locate(problems: Iterable[Problem], sources: SourceMap) -> list[Problem]:
    """The same problems with span and source line, in the order of the files."""
    found = []
    for problem in problems:
        span = problem.span or sources.find(problem.path, prefer_key=problem.at_key)
        text = sources.line_text(span) if span else None
        found.append(replace(problem, span=span, line_text=text))
    return sorted(found, key=lambda p: (p.span or Span("", 0, 0), p.code, p.message))
