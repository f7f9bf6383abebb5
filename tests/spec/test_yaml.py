"""The strict reader: what is text, what is a number, where things stand, what is refused."""

from __future__ import annotations

import pytest
import yaml as pyyaml

from enova.base.source import Span
from enova.spec import yaml as reader
from enova.spec.tree import flatten
from enova.spec.yaml import MAX_CHARACTERS, MAX_NODES, SourceText, parse


def data_of(text: str) -> object:
    parsed = parse(SourceText("f.yaml", text))
    assert parsed.problems == []
    assert parsed.root is not None
    return flatten(parsed.root).data


def codes_of(text: str) -> set[str]:
    return {problem.code for problem in parse(SourceText("f.yaml", text)).problems}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-12", -12),
        ("1.50", 1.5),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("NO", "NO"),
        ("no", "no"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("012", "012"),
        ("0o14", "0o14"),
        ("0x1F", "0x1F"),
        ("1e3", "1e3"),
        ("1_000", "1_000"),
        (".5", ".5"),
        ("5.", "5."),
        (".nan", ".nan"),
        (".inf", ".inf"),
        ("2024-01-01", "2024-01-01"),
        ("9" * 40, "9" * 40),
        ('"true"', "true"),
        ("'12'", "12"),
        ("=", "="),
    ],
)
def test_only_plain_words_and_decimals_are_more_than_text(written: str, meant: object) -> None:
    read = data_of(f"key: {written}\n")
    assert read == {"key": meant}
    assert type(read["key"]) is type(meant)  # type: ignore[index]


def test_keys_are_text_whatever_they_look_like() -> None:
    assert data_of("on: 1\n1: 2\ntrue: 3\nnull: 4\n") == {"on": 1, "1": 2, "true": 3, "null": 4}


def test_positions_of_keys_and_values() -> None:
    text = "top:\n  list:\n    - a: 1\n    - {b: two, c: [x, y]}\n  é: ü # said\n"
    parsed = parse(SourceText("f.yaml", text))
    assert parsed.root is not None
    flat = flatten(parsed.root)
    assert flat.keys["top", "list", 1, "b"] == Span("f.yaml", 4, 8, 1)
    assert flat.values["top", "list", 1, "b"] == Span("f.yaml", 4, 11, 3)
    assert flat.values["top", "list", 1, "c"] == Span("f.yaml", 4, 19, 6)
    assert flat.values["top", "list", 1, "c", 1] == Span("f.yaml", 4, 23, 1)
    assert flat.values["top", "é"] == Span("f.yaml", 5, 6, 1)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028", "\x85"])
def test_line_numbers_hold_for_every_line_end(end: str) -> None:
    parsed = parse(SourceText("f.yaml", end.join(["a: 1", "b: 2", "b: 3"])))
    assert [problem.span for problem in parsed.problems] == [Span("f.yaml", 3, 1, 1)]
    assert parsed.lines[2] == "b: 3"


def test_anchors_aliases_and_merges_are_read() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\nd: {<<: [*a, {z: 4}]}\n"
    assert data_of(text) == {
        "a": {"x": 1, "y": 2},
        "b": {"y": 3, "x": 1},
        "c": {"x": 1, "y": 2},
        "d": {"x": 1, "y": 2, "z": 4},
    }


def test_a_quoted_merge_sign_is_a_key() -> None:
    assert data_of("a: {'<<': 1}\n") == {"a": {"<<": 1}}


def test_a_byte_order_mark_at_the_start_is_skipped() -> None:
    parsed = parse(SourceText("f.yaml", "\ufeffa: 1\na: 2\n"))
    assert [problem.span for problem in parsed.problems] == [Span("f.yaml", 2, 1, 1)]


ALIAS_BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n"
    for old, new in zip("abcdefghijklmnop", "bcdefghijklmnopq", strict=True)
)
HOSTILE = {
    "alias bomb": (ALIAS_BOMB, "E105"),
    "merge bomb": (ALIAS_BOMB.replace("[", "{k: [").replace("]", "]}"), "E105"),
    "deep lists": ("[" * 100_000, "E105"),
    "deep maps": ("{a: " * 50_000, "E105"),
    "deep blocks": ("- " * 50_000, "E105"),
    "deep keys": ("? " * 50_000, "E114"),
    "large scalar": ("a: " + "x" * 50_000_000, "E105"),
    "many values": ("- x\n" * (MAX_NODES + 1), "E105"),
    "alias to itself": ("a: &a [*a]", "E115"),
    "merge of itself": ("a: &a {<<: *a}", "E115"),
    "no anchor": ("a: *b", "E115"),
    "python object": ("a: !!python/object/apply:os.system ['true']", "E104"),
    "binary": ("a: !!binary aGk=", "E104"),
    "own tag": ("a: !secret x", "E104"),
    "tagged key": ("!!str a: 1", "E114"),
    "anchored key": ("&a b: 1", "E114"),
    "empty key": (": 1\nb: 2", "E100"),
    "quoted empty key": ("'': 1", "E114"),
    "map as key": ("? {a: 1}\n: 2", "E114"),
    "nul": ("a: \x00", "E101"),
    "escaped nul": ('a: "\\0"', "E101"),
    "escape sequence": ('a: "\\e[2J"', "E101"),
    "control character in a key": ('"a\\a": 1', "E114"),
    "inner byte order mark": ("a: x\ufeffy", "E101"),
    "lone surrogate": ("a: \udc80", "E101"),
    "escaped surrogate": ('a: "\\ud800"', "E100"),
    "not a character": ("a: \ufffe", "E101"),
    "duplicate": ("a: 1\nb: {c: 1, c: 2}", "E103"),
    "duplicate through quotes": ("a: 1\n'a': 2", "E103"),
    "two documents": ("a: 1\n---\nb: 2", "E112"),
    "only a comment": ("# a", "E112"),
    "only text": ("hello", "E112"),
    "only a list": ("- a", "E112"),
    "directive": ("%YAML 3.0\n---\na: 1", "E100"),
    "tab": ("a:\n\tb: 1", "E100"),
    "unclosed": ("a: {b: [1, 2", "E100"),
    "crossed": ("a: [1}", "E100"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("loader", [reader._LOADER, pyyaml.SafeLoader], ids=["fast", "portable"])
@pytest.mark.timeout(20)
def test_hostile_text_is_refused_with_a_place(
    name: str, loader: type[pyyaml.SafeLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_LOADER", loader)
    text, code = HOSTILE[name]
    parsed = parse(SourceText("f.yaml", text))
    if name == "escaped surrogate":
        code = next(iter({problem.code for problem in parsed.problems} & {"E100", "E101"}))
    assert code in {problem.code for problem in parsed.problems}
    assert all(problem.span is not None for problem in parsed.problems)
    assert len(parsed.problems) < 20


def test_limits_let_a_large_but_honest_file_pass() -> None:
    lines = [f"key{number}: {{a: 1, b: [x, y]}}" for number in range(2000)]
    text = "\n".join(lines)
    assert len(text) < MAX_CHARACTERS
    assert codes_of(text) == set()


def test_reading_recovers_to_find_more() -> None:
    text = "a: 1\na: 2\nb: !x 3\nc: *nothing\nd: [1, 2]\n"
    parsed = parse(SourceText("f.yaml", text))
    assert [problem.code for problem in parsed.problems] == ["E103", "E104", "E115"]
    assert parsed.root is not None
    assert flatten(parsed.root).data == {"a": 1, "b": "3", "c": None, "d": [1, 2]}
