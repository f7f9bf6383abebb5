"""One line of output with an optional colour, and the rule when colour is used at all.

Meaning is never carried by colour alone: symbols and words come first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TextIO

import click


@dataclass(frozen=True)
class Line:
    """Text with an optional colour name of click."""

    text: str = ""
    colour: str | None = None
    bold: bool = False


def colour_wanted(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """``--color`` decides, else NO_COLOR and a dumb terminal switch it off, FORCE_COLOR on,
    otherwise a terminal decides."""
    context = click.get_current_context(silent=True)
    if context is not None and context.color is not None:
        return context.color
    if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    return bool(environment.get("FORCE_COLOR")) or stream.isatty()


def lively(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether lines can be drawn over: a terminal that can move its cursor."""
    return stream.isatty() and environment.get("TERM") != "dumb"


def put(lines: Iterable[Line], stream: TextIO | None = None) -> None:
    """Print lines to a stream, standard output by default."""
    out = stream if stream is not None else sys.stdout
    coloured = colour_wanted(out, os.environ)
    for line in lines:
        styled = coloured and (line.colour or line.bold)
        text = (
            click.style(line.text, fg=line.colour, bold=line.bold or None) if styled else line.text
        )
        click.echo(text, file=out, color=coloured)


def columns(
    rows: Iterable[tuple[str, ...]], *, indent: str = "", right: Collection[int] = ()
) -> list[str]:
    """Rows as aligned text. Columns in ``right`` are aligned there; nothing trails."""
    table = [tuple(row) for row in rows]
    if not table:
        return []
    widths = [
        max(len(row[i]) for row in table if i < len(row)) for i in range(max(map(len, table)))
    ]
    return [
        (
            indent
            + "  ".join(
                cell.rjust(widths[i]) if i in right else cell.ljust(widths[i])
                for i, cell in enumerate(row)
            )
        ).rstrip()
        for row in table
    ]
