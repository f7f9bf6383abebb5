"""The monitoring part as text or JSON: what of it runs, and what its panels have to show.

In: ``workflows.mon.MonStatus``, ``workflows.mon_check.Checked``. Out: lines or one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import click

from enova.base.digest import plain
from enova.cli.views.line import Line, columns, put
from enova.cli.views.status import COLOURS
from enova.stack.emptiness import Scraped, brief
from enova.workflows.mon import MonStatus, Part, Wanted
from enova.workflows.mon_check import QUIET, Checked, Finding, Kind

SCHEMA = 1
WANTED: Mapping[Wanted, str] = {
    "yes": "does not run",
    "no": "off in the spec",
    "not here": "cannot run here",
}
"""What is said of a part of which there is nothing."""

KINDS: Mapping[Kind, tuple[str, str]] = {
    "panel": ("queries of panels", "have data"),
    "rule": ("recording rules", "have data"),
    "alert": ("alerts", "see something"),
}


def put_mon_status(now: MonStatus, output: str) -> None:
    """Print the status of the monitoring part."""
    if output == "json":
        document = {
            "schema": SCHEMA,
            "stack": now.stack,
            "env": now.env,
            "stopped": now.stopped,
            "well": now.well,
            "parts": plain(now.parts),
            "targets": plain(now.targets),
            "alerts": plain(now.alerts),
            "grafana": plain(now.grafana),
            "silent": now.silent,
        }
        click.echo(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        put(mon_status_lines(now))


def mon_status_lines(now: MonStatus) -> list[Line]:
    """Parts, targets, alerts, the way to the dashboards."""
    lines = [Line(f"monitoring of {_named(now)}", bold=True)]
    if now.stopped:
        lines.append(Line(f"  stopped; start it with: enova mon start {_words(now)}", "yellow"))
    rows = [_part(part, stopped=now.stopped) for part in now.parts]
    lines += [
        Line(text, _colour(part, stopped=now.stopped))
        for part, text in zip(now.parts, columns(rows, indent="  "), strict=True)
    ]
    lines.append(Line())
    if now.silent:
        lines.append(Line(f"Targets and alerts are not known: {now.silent}.", "yellow"))
    else:
        lines += [*_targets(now.targets), Line(), *_alerts(now)]
    if now.grafana is not None:
        door = now.grafana
        lines += [
            Line(),
            Line(f"Dashboards: {door.url}, user {door.user}, password in {door.password}"),
        ]
    return lines


def put_mon_check(checked: Checked, output: str, *, verbose: bool) -> None:
    """Print what every query found."""
    if output == "json":
        document = {
            "schema": SCHEMA,
            "stack": checked.stack,
            "env": checked.env,
            "well": checked.well,
            "silent": plain(checked.silent),
            "findings": plain(checked.findings),
        }
        click.echo(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        put(mon_check_lines(checked, verbose=verbose))


def mon_check_lines(checked: Checked, *, verbose: bool) -> list[Line]:
    """What is wrong, what is empty by reason, and how many have data; ``verbose``: each query."""
    lines: list[Line] = []
    for target in checked.silent:
        text = f"{target.address} ({target.job}) does not answer: {brief(target.error)}"
        lines.append(Line(text, "yellow"))
    wrong = [one for one in checked.findings if one.verdict == "wrong"]
    lines += _by_reason("wrong", wrong, "red")
    quiet = (one for one in checked.findings if one.verdict == "empty" and one.reason != QUIET)
    lines += _by_reason("empty", quiet, None)
    if verbose:
        lines += [Line(), *_each(checked.findings)]
    lines += [Line()] if lines else []
    for kind, (many, does) in KINDS.items():
        found = [one for one in checked.findings if one.kind == kind]
        data = sum(1 for one in found if one.verdict == "data")
        lines.append(Line(f"{data} of {len(found)} {many} {does}"))
    well = "Nothing is wrong." if checked.well else f"{len(wrong)} wrong."
    return [*lines, Line(well, "green" if checked.well else "red", bold=True)]


def _by_reason(word: str, findings: Iterable[Finding], colour: str | None) -> list[Line]:
    """Each reason with the panels, alerts and number of rules it is one for."""
    reasons: dict[str, list[Finding]] = {}
    for one in findings:
        reasons.setdefault(one.reason, []).append(one)
    lines: list[Line] = []
    for reason, found in reasons.items():
        lines.append(Line(f"{word}, {reason}:", colour))
        shown = dict.fromkeys(one.where for one in found if one.kind != "rule")
        lines += [Line(f"  {where}") for where in shown]
        rules = [one.where for one in found if one.kind == "rule"]
        if rules:
            lines.append(Line(f"  {_few(rules)}"))
    return lines


def _few(rules: list[str]) -> str:
    return f"{len(rules)} recording rules" if len(rules) > 1 else f"recording rule {rules[0]}"


def _each(findings: Iterable[Finding]) -> list[Line]:
    rows = [
        (one.verdict, str(one.series) if one.series else "", one.kind, one.where, one.reason)
        for one in findings
    ]
    return [Line(text) for text in columns(rows, right=(1,))]


def _part(part: Part, *, stopped: bool) -> tuple[str, ...]:
    if part.state is None:
        said = "stopped" if stopped and part.wanted == "yes" else WANTED[part.wanted]
    else:
        said = part.state.value
    return part.name, said, part.url or "", part.exit_reason or ""


def _colour(part: Part, *, stopped: bool) -> str | None:
    if part.state is not None:
        return COLOURS[part.state]
    return "red" if part.lacks and not stopped else None


def _targets(targets: Iterable[Scraped]) -> Iterable[Line]:
    words = {True: "up", False: "down", None: "not read yet"}
    known = tuple(targets)
    yield Line("Prometheus reads:" if known else "Prometheus reads nothing.")
    rows = [
        (one.job, one.address, words[one.up], one.url, brief(one.error) if one.error else "")
        for one in known
    ]
    for one, text in zip(known, columns(rows, indent="  "), strict=True):
        yield Line(text, "red" if one.up is False else None)


def _alerts(now: MonStatus) -> Iterable[Line]:
    if not now.alerts:
        yield Line("No alert fires or is pending.")
        return
    yield Line("Alerts:")
    rows = [(one.state, one.severity, one.name, one.address, one.summary) for one in now.alerts]
    for one, text in zip(now.alerts, columns(rows, indent="  "), strict=True):
        yield Line(text, "red" if one.state == "firing" else "yellow")


def _named(now: MonStatus) -> str:
    return f"{now.stack} ({now.env})" if now.env else now.stack


def _words(now: MonStatus) -> str:
    return f"{now.stack} --env {now.env}" if now.env else now.stack
