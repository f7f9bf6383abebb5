"""A stack's status as text or JSON; watched, drawn over itself on a terminal.

In: ``workflows.status.Status``. Out: lines or one JSON object a look. Unknown numbers are said to
be unknown, never shown as zero.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import click

from enova.base.digest import plain
from enova.base.units import format_duration, format_rate, format_share
from enova.cli.views.history import utc
from enova.cli.views.line import Line, colour_wanted, columns, lively, put
from enova.cli.views.outcome import base_urls
from enova.effects.state.journal import Entry
from enova.policy.signals import MEANINGS, ReplicaSignals, Signals
from enova.stack.observed import Instance, Member, State
from enova.workflows.status import GoalNow, Status, Verdict

SCHEMA = 1
SHOWN = {
    "arrival_rate": "arrivals",
    "success_rate": "success",
    "running": "running",
    "waiting": "waiting",
    "ttft_p95": "TTFT p95",
    "itl_p95": "ITL p95",
    "e2e_p95": "e2e p95",
    "kv_usage": "KV cache used",
    "generation_tokens_rate": "tokens",
}
COLOURS = {
    State.SERVING: "green",
    State.STARTING: "blue",
    State.UNHEALTHY: "yellow",
    State.EXITED: "red",
    State.UNKNOWN: "yellow",
}

VERDICTS: Mapping[Verdict, str | None] = {
    "missed": "red",
    "met": "green",
    "not known": "yellow",
    "not measured": None,
}
"""What is said of goals, in this order, and its colour."""


@contextmanager
def status_view(
    output: str, stack: str, env: str, *, live: bool
) -> Iterator[Callable[[Status], None]]:
    """A function that shows one status; ``live`` draws over the one before on a terminal."""

    def as_json(now: Status) -> None:
        document = status_document(now, stack, env)
        click.echo(json.dumps(document, ensure_ascii=False, indent=None if live else 2))

    def as_text(now: Status) -> None:
        put(status_lines(now, stack, env))

    if output == "json":
        yield as_json
    elif live and lively(sys.stdout, os.environ):
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        console = Console(no_color=not colour_wanted(sys.stdout, os.environ))
        with Live(console=console, auto_refresh=False, screen=True) as display:

            def drawn(now: Status) -> None:
                text = Text()
                for line in status_lines(now, stack, env):
                    style = " ".join(filter(None, ["bold" if line.bold else "", line.colour]))
                    text.append(line.text + "\n", style or None)
                display.update(text, refresh=True)

            yield drawn
    else:
        yield as_text


def status_document(now: Status, stack: str, env: str) -> Mapping[str, object]:
    """The JSON form."""
    return {
        "schema": SCHEMA,
        "stack": stack,
        "env": env,
        "applied": now.applied is not None,
        "serial": now.record.serial,
        "applying": now.record.applying,
        "counts": plain(now.record.counts),
        "endpoints": dict(base_urls(now.applied.spec)) if now.applied else {},
        "instances": plain(now.observed.instances),
        "components": plain(now.observed.components),
        "members": plain(now.observed.members),
        "unreachable_hosts": plain(now.observed.unreachable_hosts),
        "signals": plain(now.signals),
        "goals": plain(now.goals),
        "lease": plain(now.lease),
        "reconciler": _keeper_document(now),
        "recent": plain(now.recent),
    }


def status_lines(now: Status, stack: str, env: str) -> list[Line]:
    """The text form."""
    name = f"{stack} ({env})" if env else stack
    if now.applied is None:
        lines = [Line(f"stack {name}: nothing is applied.", bold=True)]
        left = {i.address for i in now.observed.instances}
        left |= {c.address for c in now.observed.components}
        if left:
            found = ", ".join(sorted(left))
            lines.append(Line(f"These run all the same: {found}", "yellow"))
        return [*lines, *_recent(now.recent)]
    target = now.applied.spec.pool.target
    title = f"stack {name} on target {target}, apply {now.record.serial}{_lease(now)}"
    lines = [Line(title, bold=True), Line()]
    urls = dict(base_urls(now.applied.spec))
    for service in sorted(now.applied.choices):
        lines += _service(now, service, urls[service])
        lines.append(Line())
    rows = [
        (
            f"  {component.address}",
            component.state.value,
            component.endpoint or "",
            component.exit_reason or "; ".join(component.tampered),
        )
        for component in now.observed.components
    ]
    lines += [Line(text) for text in columns(rows)]
    if not any(c.address == "gateway" for c in now.observed.components):
        lines.append(Line("  gateway  does not run", "red"))
    lines.append(_keeper(now, stack, env))
    if now.record.monitors_stopped:
        words = f"{stack} --env {env}" if env else stack
        lines.append(Line(f"  monitoring  stopped; start it with: enova mon start {words}"))
    for host in now.observed.unreachable_hosts:
        lines.append(Line(f"{host} does not answer: what runs there is unknown.", "yellow"))
    return [*lines, *_recent(now.recent)]


def _keeper(now: Status, stack: str, env: str) -> Line:
    """Who reconciles, and from where."""
    keeper = now.keeper
    if keeper is None:
        words = f"{stack} --env {env}" if env else stack
        text = f"  nobody reconciles it; start that with: enova reconcile {words}"
        return Line(text, "yellow")
    ago = format_duration(max(0.0, now.at - keeper.at))
    where = next((c.id for c in now.observed.components if c.id == keeper.holder.host), None)
    who = f"container {where}" if where is not None else str(keeper.holder)
    if keeper.is_silent(now.at):
        return Line(f"  reconciled by {who}, which has not looked for {ago}", "red")
    problem = f": {keeper.problem}" if keeper.problem else ""
    return Line(f"  reconciled by {who}, last look {ago} ago{problem}", "yellow" if problem else "")


def _keeper_document(now: Status) -> Mapping[str, object] | None:
    keeper = now.keeper
    if keeper is None:
        return None
    return {
        "host": keeper.holder.host,
        "pid": keeper.holder.pid,
        "user": keeper.holder.user,
        "looked_at": keeper.at,
        "interval_s": keeper.interval_s,
        "problem": keeper.problem,
        "silent": keeper.is_silent(now.at),
    }


def _lease(now: Status) -> str:
    if now.lease.state == "held" and now.lease.holder is not None:
        return f", being changed by {now.lease.holder}"
    return ", an apply was interrupted: run enova plan" if now.record.applying else ""


def _service(now: Status, service: str, url: str) -> Iterable[Line]:
    instances = now.observed.of_service(service)
    serving = sum(1 for one in instances if one.state is State.SERVING)
    ordered = now.record.counts.get(service)
    of = f" of {ordered} ordered" if ordered is not None else ""
    yield Line(f"{service}  {serving}{of} serving  {url}", bold=True)
    signals = now.signals.get(service)
    if signals is None:
        yield Line("  signals: none were read")
    else:
        yield from _signals(signals)
    yield from _goals(now.goals.get(service, ()))
    members = {member.instance: member for member in now.observed.members.get(service, ())}
    numbers = signals.replicas if signals else {}
    rows = [_instance(one, members.get(one.id), numbers.get(one.id)) for one in instances]
    for one, text in zip(instances, columns(rows, indent="  "), strict=True):
        yield Line(text, COLOURS[one.state])


def _signals(signals: Signals) -> Iterable[Line]:
    """What is known on one line, what is not on the next, why below."""
    window = f"last {format_duration(signals.window_s)}" if signals.window_s else "now"
    told = {name: _told(name, getattr(signals, name)) for name in SHOWN}
    known = [f"{word} {told[name]}" for name, word in SHOWN.items() if told[name]]
    unknown = [word for name, word in SHOWN.items() if not told[name]]
    if known:
        yield Line(f"  {window}, from {signals.source}: {', '.join(known)}")
    if unknown:
        yield Line(f"  not known: {', '.join(unknown)}", "yellow")
    for note in signals.notes:
        yield Line(f"    {note}")


def _goals(goals: Iterable[GoalNow]) -> Iterable[Line]:
    """One line a verdict, each goal with what is measured and what was asked."""
    known = tuple(goals)
    for verdict, colour in VERDICTS.items():
        words = [_goal(one) for one in known if one.verdict == verdict]
        if words:
            yield Line(f"  goals {verdict}: {', '.join(words)}", colour)


def _goal(one: GoalNow) -> str:
    """``TTFT p95 120 ms (goal 400 ms)``."""
    metric, _, percentile = one.goal.partition("_p")
    name = f"{metric.upper()} p{percentile}" if percentile else one.goal.replace("_", " ")
    share = one.unit == "share"
    told = format_share if share else format_duration
    measured = f" {told(one.measured)}" if one.measured is not None else ""
    bound = f"at least {told(one.asked)}" if share else f"at most {told(one.asked)}"
    why = f": {one.why}" if one.why else ""
    return f"{name}{measured} (goal: {bound}{why})"


def _told(name: str, value: float | None) -> str:
    """A signal in its unit, "" when it is not known."""
    if value is None:
        return ""
    match MEANINGS[name].unit:
        case "requests/s" | "tokens/s":
            return format_rate(value)
        case "share":
            return format_share(value)
        case "seconds":
            return format_duration(value)
    return f"{value:g}"


def _instance(
    one: Instance, member: Member | None, numbers: ReplicaSignals | None
) -> tuple[str, ...]:
    if member is None:
        door = "not behind the gateway"
    else:
        door = "draining" if member.draining else f"weight {member.weight}"
    held = [
        f"gpu {','.join(map(str, one.placement.gpus))}" if one.placement.gpus else "",
        f"cores {','.join(map(str, one.placement.cores))}" if one.placement.cores else "",
    ]
    place = " ".join([one.placement.host, *filter(None, held)])
    work = ""
    if numbers is not None and numbers.running is not None:
        work = f"{numbers.running:g} running"
    detail = "; ".join([*([one.exit_reason] if one.exit_reason else []), *one.tampered])
    return (one.address, one.state.value, one.id, place, door, work, detail)


def _recent(entries: Iterable[Entry]) -> list[Line]:
    shown = [(utc(entry.at), entry.kind, entry.address, _detail(entry.detail)) for entry in entries]
    if not shown:
        return []
    return [Line(), Line("Last in the journal:"), *map(Line, columns(shown, indent="  "))]


def _detail(detail: Mapping[str, object]) -> str:
    """The step, when it is about one, and why or how it ended."""
    words = [str(detail["step"])] if detail.get("step") else []
    for key in ("reason", "cause", "why", "result", "failure"):
        if detail.get(key):
            words.append(str(detail[key]))
            break
    return ": ".join(words)
