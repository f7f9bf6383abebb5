"""Validation errors as problems in our words, with our codes and a guess at what was meant.

In: the plain data and the errors pydantic found in it. Out: ``Problem`` values whose paths lead
into that data, one for each thing to fix: the several errors of a union become one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic.fields import FieldInfo

from enova.base.problems import Problem, inert
from enova.base.source import Path, is_inside
from enova.spec.overlay import shorthand_at
from enova.spec.quantity import shown
from enova.spec.suggest import meant, nearest
from enova.spec.yaml import resolve

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from enova.spec.reference import Field

_LONGEST_VALUE = 60
_LARGEST_HINT = 1e12
_PARSER_WORDS = re.compile(
    r"^(?P<need>.*?)(?:, for example (?P<example>.*?))?; \".*\" is not one$", re.S
)
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
    "list_type": "a list",
}
_KEY = "[key]"
_GUESS = re.compile(r'^Did you mean "(.*)"\?$')


@dataclass(frozen=True)
class _Found:
    """One error with its path in the data and the union branches its location went through."""

    error: ErrorDetails
    path: Path
    grammar: Path
    """As ``path``, with the key a shorthand stands for."""
    at_key: bool
    union: Path | None
    branch: str


def quoted(value: object) -> str:
    """A value in a message: text in quotes, short, nothing that could move the cursor."""
    text = inert(shown(value))
    text = text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
    return f'"{text}"' if isinstance(value, str) else text


def name_of(path: Path) -> str:
    """A path as messages name it: ``goals.ttft``, without the service it belongs to."""
    short = path[2:] if len(path) > 2 and path[0] == "services" else path
    text = ""
    for part in short:
        text += f"[{part}]" if isinstance(part, int) else f".{inert(part)[:_LONGEST_VALUE]}"
    return text.removeprefix(".")


def to_problems(
    data: object, errors: Sequence[ErrorDetails], written: Mapping[Path, str]
) -> list[Problem]:
    """One problem for each thing to fix. ``written`` has the text that interpolation replaced:
    messages show that text, because a value from the environment may be secret."""
    found = [_locate(error, data) for error in errors]
    problems: list[Problem] = []
    unions: dict[Path, list[_Found]] = {}
    for one in found:
        if one.union is not None:
            unions.setdefault(one.union, []).append(one)
        else:
            problems.append(_problem(one, data, written))
    for path, members in unions.items():
        problems.extend(_union_problems(path, members, data, written))
    # A key that is missing because it is misspelt is one thing to fix.
    meant_keys = {
        (*problem.path[:-1], guess[1])
        for problem in problems
        if problem.code == "E102" and (guess := _GUESS.match(problem.hint))
    }
    return [p for p in problems if p.code != "E106" or p.path not in meant_keys]


def _locate(error: ErrorDetails, data: object) -> _Found:
    """Follow an error's location through the data; what the data does not hold names a branch."""
    path: list[str | int] = []
    grammar: list[str | int] = []
    here: Any = data
    union: Path | None = None
    branch, at_key = "", False
    location = error["loc"]
    missing = error["type"] in ("missing", "extra_forbidden")
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if part == _KEY and last:
            at_key = True
        elif is_inside(here, part):
            path.append(part)
            grammar.append(part)
            here = here[part]
        elif last and missing and isinstance(here, dict):
            path.append(part)
            grammar.append(part)
        elif isinstance(here, (dict, list)) or part != shorthand_at(tuple(path)):
            union, branch = (tuple(path) if union is None else union), str(part)
        else:  # a shorthand's key: the scalar in the data stands for it
            grammar.append(part)
    at_key = at_key or error["type"] == "extra_forbidden"
    return _Found(error, tuple(path), tuple(grammar), at_key, union, branch)


def _union_problems(
    path: Path, members: list[_Found], data: object, written: Mapping[Path, str]
) -> list[Problem]:
    """The errors of the branch that fits what was written, or one problem for all branches."""
    value = _value_at(data, path)
    deep = [one for one in members if len(one.path) > len(path)]
    if isinstance(value, dict):
        fitting = [one for one in members if one.branch and one.branch[0].isupper()]
        fitting = [one for one in fitting if one.error["type"] not in _TYPES or one in deep]
        if fitting:
            return [_problem(one, data, written) for one in fitting]
    if isinstance(value, list) and deep:
        return [_problem(one, data, written) for one in deep]
    field = _field_at(path)
    need = field.expected() if field is not None else "another value"
    text = _value_text(path, value, written)
    hint = _example(field)
    if field is not None and str in field.alternatives and isinstance(value, (int, float)):
        hint = "put it in quotes"
    allowed = _allowed(field)
    guess = nearest(value, allowed) if isinstance(value, str) and path not in written else None
    hint = f'Did you mean "{guess}"?' if guess else hint
    return [Problem("E108", f"{name_of(path)}: {need} is needed, not {text}", path, hint)]


def _problem(one: _Found, data: object, written: Mapping[Path, str]) -> Problem:
    kind, path = one.error["type"], one.path
    value = one.error["input"]
    context: Mapping[str, Any] = one.error.get("ctx") or {}
    if kind == "missing":
        return _missing(path)
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if one.at_key:
        return _bad_key(one, context)
    name, text = name_of(path), _value_text(path, value, written)
    if kind == "value_error":
        return _unreadable(path, name, text, str(context.get("error", "")))
    if kind == "literal_error":
        if path == ("version",):
            return Problem("E113", f"version {text} is not read by this enova", path, "write 1")
        return _not_allowed(one, name, text, written)
    if kind in _TYPES:
        return _wrong_type(one, name, text, _TYPES[kind], from_variable=path in written)
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        bound = _field_bound(one.grammar, context.get(key))
        return Problem("E110", f"{name}: {words} {bound} is needed, not {text}", path)
    if kind in ("too_short", "string_too_short"):
        return Problem(
            "E110", f"{name}: nothing is written here", path, _example(_field_at(one.grammar))
        )
    if kind == "string_pattern_mismatch":
        return Problem("E111", f"{name}: {text} cannot be a name", path, _NAME_HINT)
    return Problem("E119", f"{name}: {inert(one.error['msg'])}", path)


_NAME_HINT = "lower-case letters, digits and dashes, a letter first, at most 40"


def _missing(path: Path) -> Problem:
    """The parent is where the line must be added."""
    field = _field_at(path)
    example = _example(field, key=str(path[-1]))
    parent = name_of(path[:-1])
    where = f" under {parent}" if parent else ""
    message = f'"{path[-1]}" is missing{where}'
    return Problem("E106", message, path, example)


def _unknown_key(path: Path) -> Problem:
    key, parent = str(path[-1]), path[:-1]
    where = f" under {name_of(parent)}" if parent else ""
    message = f'unknown key "{inert(key)[:_LONGEST_VALUE]}"{where}'
    field = _field_at(parent)
    known = field.own_keys() if field is not None else ()
    guess = nearest(key, known)
    if guess is not None:
        hint = f'Did you mean "{guess}"?'
    else:
        hint = _elsewhere(key, parent) or ("known: " + ", ".join(known) if known else "")
    return Problem("E102", message, path, hint, at_key=True)


def _elsewhere(key: str, parent: Path) -> str:
    """A hint when the key, or our word for it, belongs to another section."""
    from enova.spec.reference import all_fields, dotted_path

    for word in (key, *meant(key)):
        places = [f.path for f in all_fields() if f.path and f.path[-1] == word]
        places.sort(key=lambda path: (path[:1] != parent[:1], len(path), path))
        if places:
            own = list(places[0])
            if own[0] == "services" and parent[:1] == ("services",) and len(parent) > 1:
                own[1] = parent[1]
            return f'Did you mean "{dotted_path(tuple(own))}"?'
    return ""


def _bad_key(one: _Found, context: Mapping[str, Any]) -> Problem:
    key, parent = str(one.path[-1]), one.path[:-1]
    if one.error["type"] != "literal_error":
        message = f"{quoted(key)} cannot be a name under {name_of(parent)}"
        return Problem("E111", message, one.path, _NAME_HINT, at_key=True)
    field = _field_at(parent)
    known = field.own_keys() if field is not None else ()
    message = f'unknown key "{inert(key)[:_LONGEST_VALUE]}" under {name_of(parent)}'
    guess = nearest(key, known)
    hint = f'Did you mean "{guess}"?' if guess else "known: " + ", ".join(known)
    return Problem("E102", message, one.path, hint, at_key=True)


def _unreadable(path: Path, name: str, text: str, reason: str) -> Problem:
    """A quantity's parser explains itself as ``need, for example x; "text" is not one``."""
    words = _PARSER_WORDS.match(reason)
    if words is None:
        return Problem("E107", f"{name}: {inert(reason)[:200]}", path)
    example = f"for example {words['example']}" if words["example"] else ""
    return Problem("E107", f"{name}: {words['need']}, {text} is not one", path, example)


def _not_allowed(one: _Found, name: str, text: str, written: Mapping[Path, str]) -> Problem:
    value, allowed = one.error["input"], _allowed(_field_at(one.grammar))
    need = ", ".join(f'"{word}"' for word in allowed) or "another value"
    need = f"one of {need}" if len(allowed) > 1 else need
    guess = nearest(value, allowed) if isinstance(value, str) and one.path not in written else None
    hint = f'Did you mean "{guess}"?' if guess else ""
    return Problem("E109", f"{name}: {need} is needed, {text} is not one", one.path, hint)


def _wrong_type(one: _Found, name: str, text: str, need: str, *, from_variable: bool) -> Problem:
    path, value, field = one.path, one.error["input"], _field_at(one.grammar)
    need = field.expected() if field is not None and field.alternatives else need
    if value is None:
        hint = "delete the line for the default, or write something"
        if field is not None and field.info is not None and field.info.is_required():
            hint = _example(field)
        message = f"{name}: {need} is needed, nothing is written"
        return Problem("E108", message, path, hint, at_key=True)
    hint = _example(field)
    if need == "text" and isinstance(value, (int, float)):
        hint = "put it in quotes"
    if need == "true or false" and isinstance(value, str):
        yes = value.lower() in ("yes", "on", "y", "1", "true")
        no = value.lower() in ("no", "off", "n", "0", "false")
        hint = f"write {'true' if yes else 'false'} without quotes" if yes or no else ""
    if need in ("a whole number", "a number") and isinstance(value, str):
        hint = _number_hint(value, hint, from_variable=from_variable)
    if isinstance(value, dict) and need.startswith("a list"):
        hint = 'start the entry with "- "'
    return Problem("E108", f"{name}: {need} is needed, not {text}", path, hint)


def _number_hint(text: str, otherwise: str, *, from_variable: bool) -> str:
    """How to write text that looks like a number: in quotes, ``012`` or ``1e3``."""
    plain = resolve(text)
    if isinstance(plain, (int, float)) and not isinstance(plain, bool):
        return "write it without quotes" + (", on a line of its own" if from_variable else "")
    try:
        number = float(text)
    except ValueError:
        return otherwise
    whole = number.is_integer() and abs(number) < _LARGEST_HINT and not from_variable
    return f"write {number:.0f}" if whole else otherwise


def _value_text(path: Path, value: object, written: Mapping[Path, str]) -> str:
    return quoted(written[path]) if path in written else quoted(value)


def _value_at(data: object, path: Path) -> object:
    here: Any = data
    for part in path:
        here = here[part]
    return here


def _field_at(path: Path) -> Field | None:
    from enova.spec.reference import field_at  # not needed by a valid spec

    return field_at(path)


def _field_bound(path: Path, bound: object) -> str:
    """A bound with its unit."""
    from enova.spec.reference import default_text

    field = _field_at(path)
    if field is not None and field.unit is not None and bound:
        return default_text(field.unit, bound)
    return f"{bound:g}" if isinstance(bound, (int, float)) else str(bound)


def _allowed(field: Field | None) -> tuple[str, ...]:
    from typing import Literal, get_args, get_origin

    if field is None:
        return ()
    literals = [kind for kind in field.alternatives if get_origin(kind) is Literal]
    return tuple(str(word) for kind in literals for word in get_args(kind))


def _example(field: Field | None, *, key: str = "") -> str:
    """``for example ttft: 400ms`` from the model's own examples."""
    from enova.spec.reference import as_written

    if field is None:
        return ""
    info: FieldInfo | None = field.info
    examples: list[Any] = list((info.examples if info else None) or ())
    if not examples and field.unit is not None:
        examples = [field.unit.example]
    if not examples:
        return ""
    prefix = f"{key}: " if key else ""
    return f"for example {prefix}{as_written(examples[0])}"
