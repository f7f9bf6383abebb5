"""The reference of every field, read from the models: ``enova explain services.chat.goals.ttft``.

In: a path into a spec, where any name may stand for a map's key. Out: a ``FieldPage`` with the
description, type, default and example that the model declares, so the reference cannot go stale.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from enova.base.errors import SpecError
from enova.base.problems import Problem, inert
from enova.base.source import Path
from enova.base.units import format_bytes, format_duration, format_rate
from enova.spec.model import Section, Spec
from enova.spec.overlay import shorthand_at
from enova.spec.quantity import Unit
from enova.spec.suggest import nearest

ANY = "NAME"
"""Stands for any key of a map in the paths of pages."""


@dataclass(frozen=True)
class Field:
    """One place of the grammar: what may stand there and what the model says about it."""

    path: Path
    alternatives: tuple[object, ...]
    """Types without ``Annotated`` and ``None``: sections, containers, literals, scalars."""
    unit: Unit | None = None
    info: FieldInfo | None = None

    @property
    def section(self) -> type[Section] | None:
        """The section that may stand here, None when only values or containers may."""
        for kind in self.alternatives:
            if isinstance(kind, type) and issubclass(kind, Section):
                return kind
        return None

    def child(self, part: str | int) -> Field | None:
        """The field one step further; any name steps into a map, any index into a list."""
        section = self.section
        if section is not None:
            info = section.model_fields.get(str(part))
            return None if info is None else _field((*self.path, str(part)), info)
        for kind in self.alternatives:
            arguments = get_args(kind)
            if get_origin(kind) is dict:
                allowed = _literals(arguments[0])
                if allowed and part not in allowed and part != ANY:
                    continue
                return _of_type((*self.path, str(part) if allowed else ANY), arguments[1])
            if get_origin(kind) is list and (isinstance(part, int) or part in ("0", ANY)):
                return _of_type((*self.path, 0), arguments[0])
        return None

    def own_keys(self) -> tuple[str, ...]:
        """Keys that may be written here by their own name."""
        section = self.section
        if section is not None:
            return tuple(section.model_fields)
        for kind in self.alternatives:
            if get_origin(kind) is dict:
                return tuple(str(word) for word in _literals(get_args(kind)[0]))
        return ()

    def expected(self) -> str:
        """What may stand here, in words: ``a duration or a map of p50, p95 to a duration``."""
        words = [self.unit.name_with_article()] if self.unit else []
        if not self.unit:
            words = [word for kind in self.alternatives if (word := _words(kind))]
        key = shorthand_at(self.path)
        if key is not None:
            inner = self.child(key)
            words = ([inner.expected()] if inner else []) + words
        words = list(dict.fromkeys(words))
        return " or ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words) or "a value"


@dataclass(frozen=True)
class FieldPage:
    """What ``enova explain FIELD`` prints."""

    path: str
    description: str
    type: str
    default: str
    examples: tuple[str, ...]
    keys: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """The page for a terminal, no newline at the end."""
        lines = [self.path, "", f"  {self.description}", "", f"  type      {self.type}"]
        if self.default:
            lines.append(f"  default   {self.default}")
        lines.extend(f"  example   {example}" for example in self.examples)
        if self.keys:
            width = max(len(key) for key, _ in self.keys)
            lines.append("")
            lines.extend(f"  {key:<{width}}  {words}".rstrip() for key, words in self.keys)
        return "\n".join(lines)


def root() -> Field:
    """The whole spec."""
    return _of_type((), Spec)


def field_at(path: Path) -> Field | None:
    """The grammar at a path of a document, None where nothing is known."""
    here: Field | None = root()
    for part in path:
        here = here.child(part) if here is not None else None
    return here


def all_fields() -> Iterator[Field]:
    """Every field of the grammar, a map's keys as ``NAME``, a list's items as index 0."""

    def below(field: Field) -> Iterator[Field]:
        yield field
        steps: tuple[str | int, ...] = field.own_keys()
        if not steps:
            containers = {get_origin(kind) for kind in field.alternatives}
            steps = (ANY,) if dict in containers else (0,) if list in containers else ()
        for step in steps:
            child = field.child(step)
            if child is not None:
                yield from below(child)

    return below(root())


def explain_path(dotted: str) -> FieldPage:
    """The page of ``services.chat.goals.ttft``; an ending such as ``goals.ttft`` will do.

    Raises SpecError with a suggestion when the grammar has no such field.
    """
    parts = tuple(part for part in dotted.strip().strip(".").replace("[", ".").split(".") if part)
    path: Path = tuple(int(p.rstrip("]")) if p.rstrip("]").isdigit() else p for p in parts)
    found = field_at(path)
    if found is None:
        # Only where the first word is a key of its own: any word could name a map's entry.
        places = [f.path for f in all_fields() if path and path[0] in f.own_keys()]
        places.sort(key=lambda place: (len(place), dotted_path(place)))
        found = next((f for place in places if (f := field_at((*place, *path)))), None)
    if found is not None:
        return _page(found)
    known = sorted({str(part) for f in all_fields() for part in f.path if isinstance(part, str)})
    guess = nearest(str(path[-1]) if path else "", known)
    pages = [dotted_path(f.path) for f in all_fields() if f.path and f.path[-1] == guess]
    hint = f'Did you mean "{pages[0]}"?' if pages else "enova explain lists all sections"
    raise SpecError([Problem("E102", f'no field "{inert(dotted)[:80]}" in a spec', hint=hint)])


def dotted_path(path: Path) -> str:
    """``services.NAME.goals.ttft``; indices stand in brackets."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _page(field: Field) -> FieldPage:
    section = field.section
    about = (field.info.description if field.info else None) or (section and section.__doc__) or ""
    keys = []
    for key in field.own_keys():
        child = field.child(key)
        words = child.info.description if child and child.info else None
        needed = "  (needed)" if child and child.info and child.info.is_required() else ""
        keys.append((key, f"{_one_line(words or '')}{needed}"))
    examples: list[object] = list((field.info.examples if field.info else None) or ())
    if not examples and field.unit:
        examples = [field.unit.example]
    return FieldPage(
        path=dotted_path(field.path) or "spec",
        description=_one_line(about) or f"One entry of {dotted_path(field.path[:-1])}.",
        type=field.expected(),
        default=_default(field),
        examples=tuple(as_written(example) for example in examples),
        keys=tuple(keys),
    )


def _one_line(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _default(field: Field) -> str:
    info = field.info
    if info is None:
        return ""
    if info.is_required():
        return "none, it must be given"
    value = info.get_default(call_default_factory=True)
    if value is None:
        return "not set"
    if isinstance(value, Section):
        set_here = {name: getattr(value, name) for name in value.model_fields_set}
        return as_written(set_here) if set_here else "each key's own default"
    if isinstance(value, list) and any(isinstance(item, Section) for item in value):
        return as_written([item.model_dump(exclude_unset=True) for item in value])
    return default_text(field.unit, value) if field.unit else as_written(value)


def default_text(unit: Unit, value: object) -> str:
    """A default of a quantity as a person would write it."""
    if not isinstance(value, (int, float)):
        return as_written(value)
    forms = {"duration": format_duration, "rate": format_rate, "size": format_bytes}
    if unit.name in forms:
        return forms[unit.name](value).replace(" ", "").replace(".0", "")
    if unit.name == "share":
        return f"{value * 100:g}%"
    return f"{value:g} USD/h" if unit.name == "price" else as_written(value)


def as_written(value: object) -> str:
    """A value on one line as it would stand in the file."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {as_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(as_written(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _field(path: Path, info: FieldInfo) -> Field:
    unit = next((item for item in info.metadata if isinstance(item, Unit)), None)
    inner = _of_type(path, info.annotation)
    return Field(path, inner.alternatives, unit or inner.unit, info)


def _of_type(path: Path, annotation: object) -> Field:
    alternatives: list[object] = []
    unit: Unit | None = None
    waiting = [annotation]
    while waiting:
        kind = waiting.pop(0)
        if get_origin(kind) is Annotated:
            arguments = get_args(kind)
            unit = unit or next((item for item in arguments if isinstance(item, Unit)), None)
            waiting.insert(0, arguments[0])
        elif get_origin(kind) in (Union, types.UnionType):
            waiting = [*get_args(kind), *waiting]
        elif kind is not type(None):
            alternatives.append(kind)
    return Field(path, tuple(alternatives), unit)


def _literals(annotation: object) -> tuple[object, ...]:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _words(kind: object) -> str:
    """One alternative in words."""
    scalars = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    if isinstance(kind, type) and kind in scalars:
        return scalars[kind]
    if isinstance(kind, type) and issubclass(kind, Section):
        if kind.__name__ == "SecretReference":
            return "a reference such as {env: NAME}"
        return "a map"
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        listed = ", ".join(
            f'"{word}"' if isinstance(word, str) else str(word) for word in arguments
        )
        return f"one of {listed}" if len(arguments) > 1 else listed
    if origin is dict:
        allowed = _literals(arguments[0])
        keys = ", ".join(str(word) for word in allowed) or "names"
        return f"a map of {keys} to {_of_type((), arguments[1]).expected()}"
    if origin is list:
        inner = _of_type((), arguments[0]).expected()
        return "a list of maps" if inner == "a map" else f"a list, each {inner}"
    return ""
