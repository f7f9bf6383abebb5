"""What came of carrying out a plan: what to do next after success, what happened after failure.

In: the plan that was carried out, its outcome, what runs now. Out: lines, or one JSON object.
Nothing here looks at the world.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from enova.cli.views.line import Line, columns
from enova.effects.outcome import Failure, Outcome
from enova.spec.model import Spec
from enova.stack.observed import Observed, State
from enova.stack.plan import Plan
from enova.workflows.apply import Applied, ask_in
from enova.workflows.loading import STDIN

SCHEMA = 1
LOG_LINES = 20
COLOURS = {"done": "green", "failed": "red", "undone": "yellow", "not started": None}


@dataclass(frozen=True)
class Ending:
    """How it ended. ``again`` is what to type to go on; ``now`` None when the target is silent."""

    applied: Applied
    again: str
    now: Observed | None


def outcome_lines(ending: Ending) -> list[Line]:
    """The end of an apply, a rollback or a destroy for a person."""
    outcome = ending.applied.outcome
    if outcome.result == "succeeded":
        return _succeeded(ending)
    if outcome.result == "interrupted":
        return _interrupted(ending)
    return _failed(ending)


def outcome_document(ending: Ending) -> Mapping[str, object]:
    """The last JSON line: what became of every action, and where the services are."""
    made, outcome = ending.applied.plan, ending.applied.outcome
    return {
        "schema": SCHEMA,
        "kind": "outcome",
        "stack": made.stack,
        "env": made.env,
        "result": outcome.result,
        "actions": [
            {
                "action": row.action,
                "address": row.address,
                "step": row.step,
                "status": row.status,
                **({"why": row.why} if row.why else {}),
            }
            for row in outcome.table(made.actions)
        ],
        "serving": _serving(made, ending.now),
        "endpoints": dict(endpoints(made)) if outcome.result == "succeeded" else {},
    }


def nothing_to_do(made: Plan) -> Mapping[str, object]:
    """The only JSON line of an empty plan."""
    return {
        "schema": SCHEMA,
        "kind": "outcome",
        "stack": made.stack,
        "env": made.env,
        "result": "unchanged",
        "actions": [],
        "endpoints": dict(endpoints(made)),
    }


def endpoints(made: Plan) -> list[tuple[str, str]]:
    """Base URL of each service behind the gateway."""
    ask = ask_in(made)
    return base_urls(ask.spec) if ask is not None else []


def base_urls(spec: Spec) -> list[tuple[str, str]]:
    """Base URL of each service of a spec, as this machine reaches it."""
    gateway = spec.gateway
    scheme = "https" if gateway.tls else "http"
    host = "127.0.0.1" if gateway.host in ("0.0.0.0", "::") else gateway.host  # noqa: S104
    return [(name, f"{scheme}://{host}:{gateway.port}/{name}/v1") for name in sorted(spec.services)]


def _succeeded(ending: Ending) -> list[Line]:
    made, outcome = ending.applied.plan, ending.applied.outcome
    named = _named(made)
    if made.destroys:
        text = f"Destroyed {named}: {_steps(len(outcome.done))} done. Its journal stays."
        return [Line(text, "green")]
    if made.monitoring is not None:
        did = "Started" if made.monitoring == "start" else "Stopped"
        return [
            Line(f"{did} the monitoring of {named}: {_steps(len(outcome.done))} done.", "green")
        ]
    lines = [Line(f"Applied {named}: {_steps(len(outcome.done))} done.", "green")]
    lines += [Line(), *_how_to_reach(made), Line()]
    words = f"{made.stack} --env {made.env}" if made.env else made.stack
    rows = [("see how it does", f"enova status {words}")]
    if made.reconciled:
        rows.append(("what keeps it at its spec says", f"enova logs reconciler {words}"))
        return [*lines, *(Line(text) for text in columns(rows, indent="  "))]
    rows.append(("keep it at its spec", f"enova reconcile {words}"))
    if made.sources and made.sources[0] != STDIN:
        spec = " ".join([made.sources[0], *([f"--env {made.env}"] if made.env else [])])
        rows.append(("", f"enova render {spec} --out FOLDER  (writes a systemd unit for it)"))
    return [*lines, *(Line(text) for text in columns(rows, indent="  "))]


def _how_to_reach(made: Plan) -> Iterable[Line]:
    ask = ask_in(made)
    if ask is None:
        return
    for name, url in endpoints(made):
        model = ask.spec.services[name].model.served_name or name
        yield Line(f"{name} answers at {url}", bold=True)
        key = ""
        if ask.spec.gateway.api_keys:
            secret = ask.spec.gateway.api_keys[0].secret
            key = f' -H "Authorization: Bearer ${secret.env or "KEY"}"'
        message = {"role": "user", "content": "Hello"}
        body = json.dumps({"model": model, "stream": True, "messages": [message]})
        yield Line(f"  curl -N {url}/chat/completions -H 'Content-Type: application/json'{key} \\")
        yield Line(f"    -d {shlex.quote(body)}")


def _failed(ending: Ending) -> list[Line]:
    made, outcome = ending.applied.plan, ending.applied.outcome
    lines: list[Line] = []
    for failure in outcome.failures:
        lines += _failure(made, failure)
    if outcome.undone:
        lines.append(Line(f"Undone: {_steps(len(outcome.undone))} of the failed change."))
    lines += [
        Line(f"Could not be undone: {_address(made, action)}: {why}", "red")
        for action, why in outcome.undo_failures
    ]
    lines += [Line(), *_table(made, outcome), Line(), *_what_serves(ending)]
    failed = len(outcome.failures)
    verb = "Destroying" if made.destroys else "Applying"
    lines.append(Line(f"{verb} {_named(made)} failed: {_steps(failed)} failed.", "red"))
    if ending.again:
        lines.append(Line(f"When the reason is gone, go on with: {ending.again}"))
    return lines


def _interrupted(ending: Ending) -> list[Line]:
    made, outcome = ending.applied.plan, ending.applied.outcome
    lines: list[Line] = []
    for failure in outcome.failures:
        lines += _failure(made, failure)
    lines += [Line(), *_table(made, outcome), Line(), *_what_serves(ending)]
    lines.append(
        Line(
            f"Interrupted: {_steps(len(outcome.done))} done, {len(outcome.undone)} undone, "
            f"{len(outcome.not_started)} not started."
        )
    )
    if ending.again:
        lines.append(Line(f"The next plan goes on from here: {ending.again}"))
    return lines


def _failure(made: Plan, failure: Failure) -> Iterable[Line]:
    action = next((a for a in made.actions if a.id == failure.action), None)
    step = action.do.kind if action else "step"
    address = action.address if action else str(failure.action)
    yield Line(f"{address}: {step} failed: {failure.reason}", "red")
    if failure.log_tail:
        yield Line("  last log lines:")
        yield from (Line(f"    {line}") for line in failure.log_tail[-LOG_LINES:])


def _table(made: Plan, outcome: Outcome) -> Iterable[Line]:
    rows = outcome.table(made.actions)
    texts = columns(
        [(row.status, row.address, row.step, _first_line(row.why)) for row in rows], indent="  "
    )
    for row, text in zip(rows, texts, strict=True):
        yield Line(text, COLOURS[row.status])


def _what_serves(ending: Ending) -> Iterable[Line]:
    if ending.now is None:
        yield Line("What serves now is unknown: the target does not answer.")
        return
    for service, count in _serving(ending.applied.plan, ending.now).items():
        now = f"{count} replica{'s' if count != 1 else ''} of {service}"
        yield Line(f"Now serving: {now}." if count else f"Nothing of {service} serves.")


def _serving(made: Plan, now: Observed | None) -> dict[str, int]:
    """Serving replicas by service, of every service the plan or the world knows."""
    if now is None:
        return {}
    found = Counter(
        instance.address.split("/", 1)[0]
        for instance in now.instances
        if instance.state is State.SERVING
    )
    names = {count.service for count in made.counts} | set(found)
    return {name: found[name] for name in sorted(names)}


def _named(made: Plan) -> str:
    return f"{made.stack} ({made.env})" if made.env else made.stack


def _address(made: Plan, action: int) -> str:
    return next((a.address for a in made.actions if a.id == action), str(action))


def _steps(count: int) -> str:
    return f"{count} step{'s' if count != 1 else ''}"


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
