"""No input makes a traceback: every refusal is a SpecError with places and codes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enova.base.errors import SpecError
from enova.base.problems import render_problems
from enova.spec.codes import CODES
from enova.spec.load import decode, load, load_document
from enova.spec.yaml import SourceText
from tests.spec.examples import RICH, read

NASTY = (
    "~", "null", "[]", "{}", "''", "on", "1e999", "-1", "0", "99999999999999999999", "${X}", "${",
    "$$", "${Y:?no}", "${A_TOKEN}", "*a", "*load", "&load x", "&a b", "!!int 3", "|\n  x",
    '"\\u0000"',
    "💥", "{a: b", "- x", ":", "#", "\t", "\x1b[31m", "\u2028", "<<", "<<: *load", "? x", "'", '"',
    "0x10", ".nan", "é" * 30, "%", "@", "`", "true", "1.5", "400ms", "20/s", "[[]]",
    "{ttft: {p95: 1s}}", "{env: A}", "2024-01-01", "\ud800", "\ufeff", "---", "...", "12:30:45",
    "x" * 300, "[1, {a: [b]}]", "{min: {min: 1}}", "9" * 400 + "s",
)  # fmt: skip


def mutate(text: str, rng: random.Random) -> str:
    """One small damage, of the kinds that editors, merges and people do."""
    at = rng.randrange(len(text) + 1)
    lines = text.split("\n")
    row = rng.randrange(len(lines))
    kind = rng.randrange(8)
    if kind == 0:
        return text[:at] + text[at + rng.randint(1, 9) :]
    if kind == 1:
        return text[:at] + rng.choice(NASTY) + text[at:]
    if kind == 2:
        return (
            text[:at]
            + chr(rng.choice([0, 9, 13, 0x85, 0xFEFF, rng.randrange(0x110000)]))
            + text[at:]
        )
    if kind == 3:
        lines.insert(row, rng.choice(lines))
    elif kind == 4:
        del lines[row]
    elif kind == 5:
        lines[row] = " " * rng.randint(0, 8) + lines[row].strip()
    elif ":" in lines[row]:
        lines[row] = f"{lines[row].split(':')[0]}: {rng.choice(NASTY)}"
    return "\n".join(lines)


def check_refusal(error: SpecError, *, located: bool = True) -> None:
    assert error.problems
    for problem in error.problems:
        assert problem.code in CODES
        assert problem.message == problem.message.strip() != ""
        assert not located or (problem.span is not None and problem.span.line >= 1)
    shown = render_problems(error.problems)
    assert all(line.isprintable() for line in shown.split("\n"))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.timeout(60)
def test_damaged_text_never_makes_a_traceback(seed: int) -> None:
    rng = random.Random(seed)
    verdicts = {"valid": 0, "refused": 0}
    for _ in range(700):
        text = RICH
        for _ in range(rng.choice((1, 1, 2, 4))):
            text = mutate(text, rng) or " "
        try:
            load([SourceText("chat.enova.yaml", text)], environment={"X": "1"})
            verdicts["valid"] += 1
        except SpecError as error:
            check_refusal(error)
            verdicts["refused"] += 1
    assert min(verdicts.values()) > 20


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["400ms", "20/s", "24GiB", "2.49 USD/h", "30%", "vllm", "auto", "p95", "env"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.text(max_size=8), st.sampled_from(["name", "env", "min", "id", "p95", "str"])
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


def paths(node: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every path of a document."""
    found = [path] if path else []
    if isinstance(node, dict):
        for key, value in node.items():
            found += paths(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            found += paths(value, (*path, index))
    return found


PATHS = paths(read(RICH).document)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(PATHS), VALUES), min_size=1, max_size=3))
def test_any_value_anywhere_is_read_or_refused(
    changes: list[tuple[tuple[str | int, ...], object]],
) -> None:
    document = read(RICH).document
    for path, value in changes:
        here: object = document
        for part in path[:-1]:
            inside = (isinstance(here, dict) and part in here) or (
                isinstance(here, list) and isinstance(part, int) and part < len(here)
            )
            here = here[part] if inside else None  # type: ignore[index]
        if isinstance(here, dict):
            here[path[-1]] = value
    try:
        load_document(document)
    except SpecError as error:
        check_refusal(error, located=False)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(max_size=60).map(lambda t: t.encode("utf-8", "surrogatepass")),
    )
)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with pytest.raises(SpecError) as caught:
        load([decode("f", content)], environment={})
    check_refusal(caught.value)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(VALUES)
def test_any_stored_document_is_read_or_refused(document: object) -> None:
    with pytest.raises(SpecError) as caught:
        load_document(document)
    check_refusal(caught.value, located=False)
