"""``${NAME}`` in values, after parsing and before overlays, so that nothing can inject structure.

In: a tree and the environment as a mapping. Out: the tree with text replaced, problems, and what
was read as names and digests, never values. Only ``${NAME}``, ``${NAME:-default}``,
``${NAME:?message}`` and ``$$`` mean something; any other ``$`` is itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from enova.base.problems import Problem, inert
from enova.base.source import Span
from enova.spec.tree import Entry, List, Node, Scalar
from enova.spec.yaml import forbidden_character, resolve

_TOKEN = re.compile(r"\$\$|\$\{(?P<body>[^}]*)(?P<close>\}?)")
_BODY = re.compile(
    r"^(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<kind>[-?])(?P<rest>[^$]*))?$", re.DOTALL
)
SECRET_NAME = re.compile(r"(?:^|_)(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.I)
"""Names of variables that hold secrets: those are referred to, never interpolated or written."""


@dataclass(frozen=True, order=True)
class Variable:
    """One variable that was looked up. ``digest`` is empty when it was not set."""

    name: str
    digest: str


@dataclass
class Interpolated:
    """The new tree with what went wrong and what was read."""

    root: Node
    problems: list[Problem] = field(default_factory=list)
    read: set[Variable] = field(default_factory=set)


def interpolate(
    root: Node, environment: Mapping[str, str], *, lines: Mapping[str, tuple[str, ...]]
) -> Interpolated:
    """Replace variables in every value of ``root``; ``lines`` serve to place the caret."""
    result = Interpolated(root)
    result.root = _walk(root, environment, lines, result)
    return result


def variable_digest(name: str, value: str) -> str:
    """Tells that a variable changed without telling its value."""
    from enova.base.digest import digest  # hashing is not needed by most specs

    return digest({"name": name, "value": value})


def _walk(
    node: Node,
    environment: Mapping[str, str],
    lines: Mapping[str, tuple[str, ...]],
    result: Interpolated,
) -> Node:
    if isinstance(node, Scalar):
        return _scalar(node, environment, lines, result)
    if isinstance(node, List):
        items = tuple(_walk(item, environment, lines, result) for item in node.items)
        return replace(node, items=items)
    entries = {
        key: Entry(entry.key_span, _walk(entry.node, environment, lines, result))
        for key, entry in node.entries.items()
    }
    return replace(node, entries=entries)


def _scalar(
    node: Scalar,
    environment: Mapping[str, str],
    lines: Mapping[str, tuple[str, ...]],
    result: Interpolated,
) -> Scalar:
    text = node.value
    if not isinstance(text, str) or "$" not in text:
        return node
    replaced, failed = False, False

    def swap(match: re.Match[str]) -> str:
        nonlocal replaced, failed
        if match[0] == "$$":
            return "$"
        replaced = True
        value = _lookup(match, environment, node, lines, result)
        if value is None:
            failed = True
            return match[0]
        return value

    new = _TOKEN.sub(swap, text)
    if failed:
        return replace(node, value=None, written=text)
    if not replaced:
        return replace(node, value=new)
    # Only numbers and booleans come out of a variable; an empty one stays empty text.
    value = resolve(new) if node.plain and new else new
    return replace(node, value=new if value is None else value, written=text)


def _lookup(
    match: re.Match[str],
    environment: Mapping[str, str],
    node: Scalar,
    lines: Mapping[str, tuple[str, ...]],
    result: Interpolated,
) -> str | None:
    """The text for one ``${...}``, None after noting a problem."""

    def problem(code: str, message: str, hint: str) -> None:
        span = _span_of(match[0], node.span, lines)
        found = Problem(code, message, hint=hint, span=span)
        if found not in result.problems:  # an anchor's value is seen once for each alias
            result.problems.append(found)

    body = _BODY.match(match["body"]) if match["close"] else None
    if body is None:
        shown = inert(match[0][:40])
        hint = "write ${NAME}, ${NAME:-default}, ${NAME:?message}, or $${ for a plain ${"
        problem("E121", f"{shown} is not a variable", hint)
        return None
    name = body["name"]
    if SECRET_NAME.search(name):
        message = f"{name} looks like a secret and would end up in plans and records"
        problem("E124", message, f"refer to it where a secret is accepted: {{env: {name}}}")
        return None
    value = environment.get(name)
    known = "" if value is None else variable_digest(name, value)
    result.read.add(Variable(name, known))
    if value is not None and forbidden_character(value) is not None:
        message = f"the value of {name} holds the character {forbidden_character(value)}"
        problem("E123", message, "set it to plain text")
        return None
    if body["kind"] is None and value is not None:
        return value
    if value:
        return value
    if body["kind"] == "-":
        return str(body["rest"])
    if body["kind"] == "?":
        state = "not set" if value is None else "empty"
        message = f"{name} is {state}"
        said = inert(body["rest"].strip())
        problem("E122", f"{message}: {said}" if said else message, f"set {name} in the environment")
        return None
    problem("E120", f"{name} is not set", f"set it, or write a default: ${{{name}:-value}}")
    return None


def _span_of(written: str, span: Span, lines: Mapping[str, tuple[str, ...]]) -> Span:
    """The place of ``written`` in the source, the whole value's when it is not found there."""
    rows = lines.get(span.file, ())
    for number in range(span.line, min(len(rows), span.line + 50) + 1):
        start = span.column - 1 if number == span.line else 0
        at = rows[number - 1].find(written, start)
        if at >= 0:
            return Span(span.file, number, at + 1, len(written))
    return span
