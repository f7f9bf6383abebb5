"""Strict YAML: text in, a tree that knows its positions out; what cannot be read is a problem.

The parser's events are read one by one, never PyYAML's object builder, so nothing is constructed,
duplicate keys are seen, depth and aliases are bounded while reading, and only ``true``, ``false``,
``null`` and plain decimal numbers are more than text: ``on``, ``NO``, ``1:30``, ``012`` and
``1e3`` stay what was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import yaml

from enova.base.problems import Problem, inert
from enova.base.source import Span
from enova.spec.tree import Entry, List, Map, Node, Plain, Scalar

MAX_CHARACTERS = 256 * 1024
"""A spec of a thousand services stays below; whatever is larger is not a spec."""
MAX_DEPTH = 40
MAX_NODES = 30_000
"""Values after every alias is written out."""
_MOST_CHARACTER_PROBLEMS = 5

_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_FORBIDDEN = "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
_FORBIDDEN_VALUE = "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]"
_INTEGER = re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,17})$")
_DECIMAL = re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,18}$")
_WORDS: dict[str, Plain] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}

_LOADER: type[yaml.CSafeLoader] | type[yaml.SafeLoader] = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)


@dataclass(frozen=True)
class SourceText:
    """One file's text under the name shown in problems; ``-`` is standard input."""

    file: str
    text: str


@dataclass
class Parsed:
    """A tree (None when nothing could be read), its problems, and the lines for printing them."""

    root: Node | None = None
    problems: list[Problem] = field(default_factory=list)
    lines: tuple[str, ...] = ()


def resolve(text: str) -> Plain:
    """What unquoted text stands for: a boolean, null, a decimal number, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.match(text):
        return int(text)
    return float(text) if _DECIMAL.match(text) else text


def forbidden_character(value: str) -> str | None:
    """The first character no value may hold (control characters, lone surrogates), in words."""
    if value.isprintable():
        return None  # the pattern is compiled only for the rare text that is not
    match = re.search(_FORBIDDEN_VALUE, value)
    return f"U+{ord(match[0]):04X}" if match else None


def parse(source: SourceText) -> Parsed:
    """Read one file. Never raises: what is wrong is in ``problems``, with its span."""
    text = source.text.removeprefix("\ufeff")
    parsed = Parsed()
    if len(text) > MAX_CHARACTERS:
        message = (
            f"the file has {len(text):,} characters; a spec has at most {MAX_CHARACTERS:,}".replace(
                ",", " "
            )
        )
        parsed.problems.append(Problem("E105", message, span=Span(source.file, 1, 1)))
        return parsed
    parsed.lines = tuple(_LINE_END.split(text))
    parsed.problems.extend(_forbidden_characters(source.file, parsed.lines))
    if parsed.problems:
        return parsed
    reader = _Reader(source.file, parsed)
    try:
        parsed.root = reader.document(yaml.parse(text, Loader=_LOADER))
    except _Stop:
        parsed.root = None
    except yaml.MarkedYAMLError as error:
        parsed.problems.append(_syntax_problem(error, source.file, parsed.lines))
    except yaml.YAMLError as error:
        message = f"this is not YAML: {inert(str(error).splitlines()[0])}"
        parsed.problems.append(Problem("E100", message, span=Span(source.file, 1, 1)))
    except RecursionError:
        parsed.problems.append(
            Problem("E105", "the file is nested too deeply", span=Span(source.file, 1, 1))
        )
    return parsed


class _Stop(Exception):
    """Reading on would be useless or unsafe; the problem is already noted."""


class _Reader:
    """Builds the tree from events; recursion is bounded by ``MAX_DEPTH``."""

    def __init__(self, file: str, parsed: Parsed) -> None:
        self._file = file
        self._parsed = parsed
        self._anchors: dict[str, Node | None] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._nodes = 0

    def document(self, events: Iterator[yaml.Event]) -> Node | None:
        """The only document of the stream."""
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self._problem("E112", "a second document starts here", event, length=3)
                    raise _Stop
            elif isinstance(event, yaml.NodeEvent):
                root, _ = self._node(event, events, 1)
        if root is None or (isinstance(root, Scalar) and root.value is None):
            span = Span(self._file, 1, 1)
            self._parsed.problems.append(Problem("E112", "the file is empty", span=span))
            return None
        if not isinstance(root, Map):
            message = f"the file must hold keys and values; this is {kind(root)}"
            self._parsed.problems.append(Problem("E112", message, span=root.span))
            return None
        return root

    def _node(
        self, event: yaml.Event, events: Iterator[yaml.Event], depth: int
    ) -> tuple[Node, int]:
        """A node and its height; counts it, follows aliases, remembers anchors."""
        if depth > MAX_DEPTH:
            self._problem("E105", f"values are nested more than {MAX_DEPTH} deep", event)
            raise _Stop
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        if not isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)):
            raise _Stop  # the parser promises a node here
        self._count(1, event)
        before = self._nodes
        anchor = event.anchor
        if anchor is not None:
            self._anchors[anchor] = None
        tag: str | None = event.tag
        if tag is not None:
            shown = inert(tag.replace("tag:yaml.org,2002:", "!!"))
            self._problem("E104", f"tags such as {shown} are not read", event)
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node, height = self._scalar(event), 0
        elif isinstance(event, yaml.SequenceStartEvent):
            node, height = self._list(event, events, depth)
        else:
            node, height = self._map(event, events, depth)
        if anchor is not None:
            self._anchors[anchor] = node
            self._sizes[anchor] = (1 + self._nodes - before, height)
        return node, height

    def _count(self, more: int, event: yaml.Event) -> None:
        self._nodes += more
        if self._nodes > MAX_NODES:
            message = (
                f"the file holds more than {MAX_NODES} values once its aliases are written out"
            )
            self._problem("E105", message, event)
            raise _Stop

    def _alias(self, event: yaml.AliasEvent, depth: int) -> tuple[Node, int]:
        name = event.anchor or ""
        if name not in self._anchors:
            self._problem("E115", f"alias *{inert(name)} has no anchor &{inert(name)} above", event)
            return Scalar(None, self._span(event)), 0
        node = self._anchors[name]
        if node is None:
            self._problem("E115", f"alias *{inert(name)} stands inside its own anchor", event)
            return Scalar(None, self._span(event)), 0
        size, height = self._sizes[name]
        self._count(size, event)
        if depth + height > MAX_DEPTH:
            self._problem("E105", f"values are nested more than {MAX_DEPTH} deep", event)
            raise _Stop
        return replace(node, use=self._span(event)), height

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        text: str = event.value
        bad = forbidden_character(text)
        if bad is not None:
            self._problem("E101", f"a value cannot hold the character {bad}", event)
            text = ""
        plain = event.style in (None, "") and event.tag is None
        return Scalar(resolve(text) if plain else text, self._span(event), plain)

    def _list(
        self, event: yaml.Event, events: Iterator[yaml.Event], depth: int
    ) -> tuple[List, int]:
        items: list[Node] = []
        tallest = 0
        span = self._span(event)
        for inner in events:
            if isinstance(inner, yaml.SequenceEndEvent):
                span = self._to_end(span, inner)
                break
            item, height = self._node(inner, events, depth + 1)
            items.append(item)
            tallest = max(tallest, height + 1)
        return List(tuple(items), span), tallest

    def _map(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> tuple[Map, int]:
        entries: dict[str, Entry] = {}
        merges: list[Node] = []
        tallest = 0
        whole = self._span(event)
        for key_event in events:
            if isinstance(key_event, yaml.MappingEndEvent):
                whole = self._to_end(whole, key_event)
                break
            key = self._key(key_event)
            value, height = self._node(next(events), events, depth + 1)
            tallest = max(tallest, height + 1)
            if key is None:
                continue
            span = self._span(key_event)
            if key == "<<" and span.length == len(key):  # quoted, it is a key like any other
                merges.append(value)
            elif key in entries:
                first = entries[key].key_span
                message = f'"{inert(key)}" is written twice in one place'
                hint = f"first at {inert(first.file)}:{first.line}:{first.column}"
                self._parsed.problems.append(Problem("E103", message, hint=hint, span=span))
            else:
                entries[key] = Entry(span, value)
        return Map(self._merged(entries, merges), whole), tallest

    def _key(self, event: yaml.Event) -> str | None:
        """A key as text, whatever it looks like: ``on:`` is ``on``; None after a problem."""
        if not isinstance(event, yaml.ScalarEvent):
            self._problem("E114", "a key must be text", event)
            raise _Stop
        self._count(1, event)
        text: str = event.value
        if event.tag is not None or event.anchor is not None:
            self._problem("E114", "a key takes no tag and no anchor", event)
        if text == "" or forbidden_character(text) is not None:
            self._problem("E114", "a key must be text without control characters", event)
            return None
        return text

    def _merged(self, own: dict[str, Entry], merges: list[Node]) -> dict[str, Entry]:
        """``<<`` lends keys that are not written here; the first lender wins."""
        if not merges:
            return own
        merged = dict(own)
        for value in merges:
            lenders = value.items if isinstance(value, List) else (value,)
            for lender in lenders:
                if isinstance(lender, Scalar) and lender.value is None and lender.use is None:
                    continue  # an alias whose problem is already noted, or nothing
                if not isinstance(lender, Map):
                    message = f"<< takes a map or a list of maps; this is {kind(lender)}"
                    self._parsed.problems.append(Problem("E115", message, span=lender.span))
                    continue
                for key, entry in lender.entries.items():
                    lent = replace(entry.node, use=entry.node.use or lender.use or value.use)
                    merged.setdefault(key, Entry(entry.key_span, lent))
        return merged

    def _span(self, event: yaml.Event) -> Span:
        start, end = event.start_mark, event.end_mark
        if start is None or end is None:
            return Span(self._file, 1, 1)
        line = self._parsed.lines[start.line] if start.line < len(self._parsed.lines) else ""
        if end.line == start.line:
            length = end.column - start.column
        else:
            length = len(line.split(" #")[0].rstrip()) - start.column
        if isinstance(event, yaml.CollectionStartEvent):
            length = len(line.split(" #")[0].rstrip()) - start.column
        return Span(self._file, start.line + 1, start.column + 1, max(1, length))

    def _to_end(self, span: Span, end: yaml.Event) -> Span:
        """The span of a collection written on one line, up to its closing bracket."""
        mark = end.end_mark
        if mark is None or mark.line + 1 != span.line or mark.column < span.column:
            return span
        return replace(span, length=mark.column + 1 - span.column)

    def _problem(self, code: str, message: str, event: yaml.Event, *, length: int = 0) -> None:
        span = self._span(event)
        span = replace(span, length=length) if length else span
        self._parsed.problems.append(Problem(code, message, span=span))


def kind(node: Node) -> str:
    """What a node is, in words."""
    if isinstance(node, Map):
        return "a map"
    return "a list" if isinstance(node, List) else "a single value"


def _forbidden_characters(file: str, lines: tuple[str, ...]) -> list[Problem]:
    found: list[Problem] = []
    for number, line in enumerate(lines, 1):
        if line.isprintable():
            continue
        for match in re.finditer(_FORBIDDEN, line):
            name = f"U+{ord(match[0]):04X}"
            message = f"the character {name} cannot stand in YAML"
            if match[0] == "\ufeff":
                message = f"a byte order mark ({name}) stands in the middle of the file"
            found.append(Problem("E101", message, span=Span(file, number, match.start() + 1)))
            if len(found) == _MOST_CHARACTER_PROBLEMS:
                return found
    return found


_INDENTATION = "check the indentation"
_SYNTAX = (
    (
        "mapping values are not allowed",
        "a colon is not possible here",
        'put text with ": " in quotes, and check the indentation',
    ),
    ("found unexpected end of stream", "this quote is never closed", ""),
    ("',' or ']'", "this [ is never closed, or a comma is missing after it", ""),
    ("',' or '}'", "this { is never closed, or a comma is missing after it", ""),
    ("could not find expected ':'", "a colon is missing after this key", 'write "key: value"'),
    ("incompatible YAML document", "this version of YAML is not read", "remove the %YAML line"),
    ("document start", "nothing may follow the document here", ""),
    ("did not find expected key", "a key is expected here", _INDENTATION),
    ("expected <block end>", "a key is expected here", _INDENTATION),
    ("did not find expected '-'", 'an item starting with "-" is expected here', _INDENTATION),
    ("undefined tag handle", "tags are not read", "put text that starts with ! in quotes"),
)
_POINT_AT_START = ("never closed",)


def _syntax_problem(error: yaml.MarkedYAMLError, file: str, lines: tuple[str, ...]) -> Problem:
    """A parser error in our words, at the place a person would look."""
    raw = error.problem or "it cannot be read"
    message, hint = f"this is not YAML: {inert(raw)}", ""
    for part, words, advice in _SYNTAX:
        if part in raw:
            message, hint = words, advice
            break
    at_start = any(part in message for part in _POINT_AT_START)
    mark = (error.context_mark if at_start else None) or error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark is not None else (0, 0)
    if line >= len(lines) or (line == len(lines) - 1 and not lines[line] and line > 0):
        line = max(0, len(lines) - 1)
        while line > 0 and not lines[line].strip():
            line -= 1
        column = max(0, len(lines[line]) - 1)
    here = lines[line][column : column + 1]
    if at_start and "${" in lines[line]:
        hint = 'inside { } and [ ] a variable stands in quotes: "${NAME}"'
    if "cannot start any token" in raw:
        if here == "\t":
            message, hint = "a tab cannot indent YAML", "use spaces"
        elif here:
            message, hint = f"a value cannot start with {inert(here)}", "put it in quotes"
    return Problem("E100", message, hint=hint, span=Span(file, line + 1, column + 1))
