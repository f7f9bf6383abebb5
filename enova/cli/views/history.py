"""Earlier applies, newest first, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import click

from enova.cli.views.line import Line, columns, put
from enova.effects.state.store import Applied


def put_history(applies: Sequence[Applied], output: str) -> None:
    """Print serial, time and services of each apply; the first is the one in force."""
    if output == "json":
        entries = [
            {"serial": past.serial, "at": past.at, "services": _services(past)} for past in applies
        ]
        click.echo(json.dumps({"schema": 1, "applies": entries}))
    else:
        put(history_lines(applies))


def history_lines(applies: Sequence[Applied]) -> list[Line]:
    """The table, with an empty line after it."""
    if not applies:
        return [Line("Nothing was applied yet.")]
    rows = [("apply", "when", "services", "")]
    for index, past in enumerate(applies):
        names = ", ".join(_services(past))
        rows.append((str(past.serial), utc(past.at), names, "now" if index == 0 else ""))
    return [*(Line(text) for text in columns(rows)), Line()]


def utc(at: float) -> str:
    """Seconds since 1970 as a time of day people can compare."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _services(past: Applied) -> list[str]:
    services = (past.record.document or {}).get("services")
    return sorted(services) if isinstance(services, Mapping) else []
