"""The checks of ``enova doctor`` as a table, each with what to do, or as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import click

from enova.base.digest import plain
from enova.cli.views.line import Line, columns, put
from enova.workflows.doctor import Check

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def put_checks(checks: Sequence[Check], output: str) -> None:
    """Print every check."""
    if output == "json":
        click.echo(json.dumps({"schema": 1, "checks": plain(checks)}, indent=2))
    else:
        put(check_lines(checks))


def check_lines(checks: Sequence[Check]) -> list[Line]:
    """One line a check, its remedy below it, the count at the end."""
    lines: list[Line] = []
    rows = columns([(check.verdict, check.name, check.found) for check in checks])
    width = max((len(check.name) for check in checks), default=0)
    for check, row in zip(checks, rows, strict=True):
        lines.append(Line(row, COLOURS[check.verdict]))
        if check.remedy:
            lines.append(Line(f"{'':6}{'':{width}}  {check.remedy}."))
    counted = Counter(check.verdict for check in checks)
    parts = [f"{counted['fail']} to fix", f"{counted['warn']} to know", f"{counted['ok']} fine"]
    return [*lines, Line(), Line(", ".join(parts) + ".", bold=True)]
