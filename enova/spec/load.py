"""From texts to a ``Spec``: read, interpolate, overlay, validate, check, all problems at once.

In: the texts of one stack, the base file first, and the environment as a mapping. Out: a
``LoadedSpec``, or ``SpecError`` with every problem of every stage, located in the user's files.
Reading files is the caller's; nothing here touches the world.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from enova.base.errors import SpecError
from enova.base.problems import Problem, locate
from enova.base.source import Path, SourceMap, Span, is_inside
from enova.spec.checks import ACROSS_SECTIONS, LOOKS_AT_DEFAULTS, check, notes
from enova.spec.interpolate import Variable, interpolate
from enova.spec.model import Spec
from enova.spec.overlay import merge
from enova.spec.tree import Flat, Node, flatten
from enova.spec.yaml import MAX_CHARACTERS, SourceText, parse

_ROUNDS = 4
"""Leaving out a wrong value may make its section wrong, up to the service it belongs to."""


@dataclass(frozen=True)
class LoadedSpec:
    """A valid spec with all that is known about how it was written.

    ``document`` is the merged plain data after interpolation, what records store and
    ``load_document`` reads back. ``read`` names the variables it depends on, with digests.
    """

    spec: Spec
    document: dict[str, Any]
    sources: SourceMap
    read: tuple[Variable, ...]
    notes: tuple[Problem, ...]

    def origin(self, path: Path) -> Span | None:
        """Where the value at ``path`` was written, None for a default."""
        return self.sources.values.get(path)


def decode(file: str, content: bytes) -> SourceText:
    """A file's bytes as text. Raises SpecError with the place of a byte that is not UTF-8."""
    if len(content) > 4 * MAX_CHARACTERS:
        message = f"the file has {len(content)} bytes; a spec has at most {4 * MAX_CHARACTERS}"
        raise SpecError([Problem("E105", message, span=Span(file, 1, 1))])
    try:
        return SourceText(file, content.decode("utf-8"))
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        message = f"byte 0x{content[error.start]:02X} is not UTF-8"
        hint = "save the file as UTF-8"
        problem = Problem("E101", message, hint=hint, span=Span(file, line, column))
        raise SpecError([problem]) from error


def load(texts: Sequence[SourceText], *, environment: Mapping[str, str]) -> LoadedSpec:
    """The spec of one stack: the base text, then its overlays in order.

    Raises SpecError with every problem found, sorted by file and line.
    """
    if not texts:
        raise SpecError([Problem("E130", "no spec was given", hint="enova init writes one")])
    problems: list[Problem] = []
    lines: dict[str, tuple[str, ...]] = {}
    read: set[Variable] = set()
    roots: list[Node] = []
    for source in texts:
        parsed = parse(source)
        lines[source.file] = parsed.lines
        problems.extend(parsed.problems)
        if parsed.root is not None:
            filled = interpolate(parsed.root, environment, lines=lines)
            problems.extend(filled.problems)
            read |= filled.read
            roots.append(filled.root)
    if len(roots) < len(texts):
        # Without one of the files the merged document would accuse the others wrongly.
        raise SpecError(locate(problems, SourceMap(lines=lines)))
    merged = roots[0]
    for over in roots[1:]:
        merged = merge(merged, over)
    flat = flatten(merged)
    sources = flat.sources(lines)
    # What could not be read has a stand-in value, whose further problems mean nothing.
    unreadable = {problem.span for problem in problems}
    spec, more = _validate(flat)
    problems.extend(p for p in more if sources.values.get(p.path) not in unreadable)
    if problems or spec is None:
        raise SpecError(locate(problems, sources))
    data = flat.data
    if not isinstance(data, dict):  # a root that is no map is a problem of ``parse``
        raise SpecError(locate([Problem("E112", "the file must hold keys and values")], sources))
    return LoadedSpec(
        spec=spec,
        document=data,
        sources=sources,
        read=tuple(sorted(read)),
        notes=tuple(locate(notes(spec), sources)),
    )


def load_document(document: object) -> Spec:
    """The spec of a stored document (a record's), by the same rules. Raises SpecError."""
    if not isinstance(document, dict):
        raise SpecError([Problem("E112", "the stored spec is not a map")])
    spec, problems = _validate(Flat(data=document))
    if problems or spec is None:
        raise SpecError(locate(problems, SourceMap()))
    return spec


def _validate(flat: Flat) -> tuple[Spec | None, list[Problem]]:
    """The spec and no problems, or None and all problems, cross-field checks included."""
    unset = {path for path in flat.written if _at(flat.data, path) is None}
    try:
        spec = Spec.model_validate(flat.data)
    except ValidationError as error:
        from enova.spec.translate import to_problems  # a valid spec does not need it

        details = error.errors(include_url=False)
        problems = [p for p in to_problems(flat.data, details, flat.written) if p.path not in unset]
        problems.extend(_checks_of_the_rest(flat.data, problems, unset))
        return None, problems
    return spec, [] if unset else check(spec)


def _checks_of_the_rest(
    data: object, problems: Sequence[Problem], unset: set[Path]
) -> list[Problem]:
    """Cross-field problems of a document with errors: what is wrong is left out, then checked.

    A check that a default could have caused is not believed where its section lost a field.
    """
    rest = copy.deepcopy(data)
    if not isinstance(rest, dict):
        return []
    removed: set[Path] = set()
    waiting = [problem.path for problem in problems] + sorted(unset, key=str)
    for _ in range(_ROUNDS):
        gone: set[Path] = set()
        # From the end, so that indices of list items before stay right.
        for path in reversed(waiting):
            if not any(path[: len(other)] == other for other in gone):
                gone.add(_leave_out(rest, path))
        removed |= gone
        rest.setdefault("version", 1)
        rest.setdefault("name", "unnamed")
        try:
            spec = Spec.model_validate(rest)
        except ValidationError as error:
            from enova.spec.translate import to_problems

            waiting = [problem.path for problem in to_problems(rest, error.errors(), {})]
            continue
        return [
            problem
            for problem in check(spec)
            if problem.code not in LOOKS_AT_DEFAULTS
            or not any(_touches(problem, path) for path in removed)
        ]
    return []


def _touches(problem: Problem, removed: Path) -> bool:
    """Whether a check may have looked at what was removed: it looks at its own section."""
    if removed[:1] == ("services",):
        section = removed[: 2 if problem.code in ACROSS_SECTIONS else 3]
    else:
        section = removed[:-1] if len(removed) > 1 else removed
    path = problem.path
    return path[: len(section)] == section or section[: len(path)] == path


def _leave_out(data: object, path: Path) -> Path:
    """Replace what is wrong or missing at ``path`` by the field's example where it is needed;
    otherwise take it out, or its nearest parent that is there. Returns the path that changed."""
    from enova.spec.reference import field_at

    field = field_at(path)
    parent: Any = _at(data, path[:-1])
    info = field.info if field is not None else None
    if info is not None and info.is_required() and info.examples and isinstance(parent, dict):
        example, key = info.examples[0], str(path[-1])
        if parent.get(key) != example:
            parent[key] = copy.deepcopy(example)
            return path
    while path and not _remove(data, path):
        path = path[:-1]
    return path


def _remove(data: object, path: Path) -> bool:
    """Delete what is at ``path``; False when there is nothing."""
    if not path:
        return False
    here: Any = _at(data, path[:-1])
    if not is_inside(here, path[-1]):
        return False
    del here[path[-1]]
    return True


def _at(data: object, path: Path) -> object:
    """The value at ``path``, None where there is none."""
    here: Any = data
    for part in path:
        if not is_inside(here, part):
            return None
        here = here[part]
    return here
