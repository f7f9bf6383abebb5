"""What is wrong with what a user wrote, as data. Printing happens at the edge.

A check returns ``Problem`` values with a code and a path; ``locate`` adds the span, and
``render_problems`` makes the text a person reads. The registry of codes (``spec/codes.py``) holds
the page that ``enova explain CODE`` prints.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from enova.base.source import Path, SourceMap, Span


@dataclass(frozen=True)
class Problem:
    """One thing to fix. ``message`` says what is wrong, ``hint`` what to write instead.

    A hint that ends in a question mark is a guess at what was meant.
    """

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
    found: dict[tuple[Span | None, str, str], Problem] = {}
    uses: dict[tuple[Span | None, str, str], set[Span]] = {}
    for problem in problems:
        span = problem.span or sources.find(problem.path, prefer_key=problem.at_key)
        text = sources.line_text(span) if span else None
        # An anchor's mistake is one mistake, however often the anchor is used.
        same = (span, problem.code, problem.message if span else problem.summary())
        found.setdefault(same, replace(problem, span=span, line_text=text))
        use = None if problem.span else sources.used_at(problem.path)
        if use is not None and use != span:
            uses.setdefault(same, set()).add(use)
    for same, spans in uses.items():
        places = ", ".join(f"{use.file}:{use.line}:{use.column}" for use in sorted(spans))
        found[same] = replace(found[same], message=f"{found[same].message} (used at {places})")
    return sorted(found.values(), key=lambda p: (p.span or Span("", 0, 0), p.code, p.message))


_WIDEST_LINE = 100
"""Longer source lines are cut around the caret."""


def inert(text: str) -> str:
    """``text`` with every character that could move the cursor or colour the terminal escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "replace").decode()
        for char in text
    )


def render_problem(problem: Problem, *, where_width: int = 0) -> str:
    """One problem as the terminal shows it: headline, source line, caret with the hint.

    ``where_width`` pads the position, so that several headlines stand in columns. No newline at
    the end.
    """
    guess = problem.hint.endswith("?")
    headline = f"{inert(problem.where()):<{where_width}}  {problem.code}  {inert(problem.message)}"
    if guess:
        headline += f". {inert(problem.hint)}"
    side = "" if guess or not problem.hint else f"   {inert(problem.hint)}"
    if problem.span is None or problem.line_text is None:
        return headline.lstrip() + (f"\n    {side.strip()}" if side else "")
    line, start, length = _window(problem.line_text, problem.span)
    number = f"{problem.span.line:>4}"
    before = _columns(line[:start])
    carets = "^" * max(1, _columns(line[start : start + length]))
    return (
        f"{headline}\n{number} | {line}".rstrip()
        + f"\n{' ' * len(number)} | {' ' * before}{carets}{side}"
    )


def render_problems(problems: Sequence[Problem], *, closing: str = "Nothing was changed.") -> str:
    """All problems and how many there are; ``closing`` says what that means for the run."""
    width = max((len(inert(problem.where())) for problem in problems), default=0)
    blocks = [render_problem(problem, where_width=width) for problem in problems]
    files = {problem.span.file for problem in problems if problem.span is not None}
    count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    if files:
        count += f" in {len(files)} file{'s' if len(files) != 1 else ''}"
    return "\n".join([*blocks, f"{count}. {closing}".rstrip()])


def _window(text: str, span: Span) -> tuple[str, int, int]:
    """The source line made inert and short, with the caret's start (from 0) and length in it."""
    line = "".join(char if char.isprintable() else " " for char in text)
    start = min(span.column - 1, len(line))
    length = max(1, min(span.length, len(line) - start))
    if len(line) > _WIDEST_LINE:
        first = max(0, start - _WIDEST_LINE // 3)
        line = ("…" if first else "") + line[first:]
        start -= first - (1 if first else 0)
        if len(line) > _WIDEST_LINE:
            line = line[:_WIDEST_LINE] + "…"
        length = max(1, min(length, _WIDEST_LINE // 2, len(line) - start))
    return line, start, length


def _columns(text: str) -> int:
    """Terminal columns of ``text``: East Asian wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )
