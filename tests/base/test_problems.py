"""Problems as text: columns, carets, cut lines, and nothing that could move the cursor."""

from __future__ import annotations

from enova.base.problems import Problem, inert, locate, render_problem, render_problems
from enova.base.source import SourceMap, Span


def test_a_hint_stands_at_the_caret_and_a_guess_in_the_headline() -> None:
    first = Problem(
        "E107",
        'goals.ttft: a duration is needed, "fast" is not one',
        hint="for example 400ms",
        span=Span("chat.enova.yaml", 14, 11, 4),
        line_text="    ttft: fast",
    )
    second = Problem(
        "E102",
        'unknown key "max_replica" under scale',
        hint='Did you mean "max"?',
        span=Span("chat.enova.yaml", 22, 5, 11),
        line_text="    max_replica: 3",
    )
    assert render_problems([first, second]) == (
        'chat.enova.yaml:14:11  E107  goals.ttft: a duration is needed, "fast" is not one\n'
        "  14 |     ttft: fast\n"
        "     |           ^^^^   for example 400ms\n"
        'chat.enova.yaml:22:5   E102  unknown key "max_replica" under scale. Did you mean "max"?\n'
        "  22 |     max_replica: 3\n"
        "     |     ^^^^^^^^^^^\n"
        "2 problems in 1 file. Nothing was changed."
    )


def test_a_problem_without_a_place_keeps_its_path_and_hint() -> None:
    problem = Problem("E106", "x is missing", ("services", "a"), "add it")
    assert render_problem(problem) == "services.a  E106  x is missing\n    add it"
    assert (
        render_problems([problem], closing="")
        == "services.a  E106  x is missing\n    add it\n1 problem."
    )


def test_nothing_moves_the_cursor() -> None:
    problem = Problem(
        "E1", "a\x1b[2Jb\r", span=Span("f\x1b[1m", 1, 1), line_text="\x1b[31mred\u202e"
    )
    shown = render_problem(problem)
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "a\\x1b[2Jb\\r" in shown
    assert inert("\ud800") == "\\ud800"


def test_the_caret_stands_under_wide_characters_tabs_and_in_cut_lines() -> None:
    wide = Problem("E1", "m", span=Span("f", 1, 7, 2), line_text="名前: 値 xy")
    assert render_problem(wide).splitlines()[2] == "     |          ^^"
    tab = Problem("E1", "m", span=Span("f", 1, 2, 1), line_text="\tx")
    assert render_problem(tab).splitlines()[1:] == ["   1 |  x", "     |  ^"]
    long = Problem("E1", "m", span=Span("f", 1, 301, 3), line_text="a" * 300 + "bcd" + "e" * 300)
    _, line, caret = render_problem(long).splitlines()
    assert line[caret.index("^") :].startswith("bcde")
    assert caret.count("^") == 3
    assert len(line) < 120


def test_a_caret_past_the_end_of_the_line_is_one_wide() -> None:
    problem = Problem("E1", "m", span=Span("f", 1, 40, 9), line_text="a:")
    assert render_problem(problem).splitlines()[2] == "     |   ^"


def test_a_missing_path_points_at_its_nearest_parent() -> None:
    sources = SourceMap(
        values={(): Span("f", 1, 1), ("a",): Span("f", 2, 3)},
        keys={("a",): Span("f", 2, 1)},
        lines={"f": ("", "a: {}")},
    )
    (found,) = locate([Problem("E1", "m", ("a", "b", "c"))], sources)
    assert (found.span, found.line_text) == (Span("f", 2, 1), "a: {}")


def test_a_mistake_in_an_anchor_is_told_once_with_its_uses() -> None:
    value = Span("f", 1, 9)
    sources = SourceMap(
        values={("a", "k"): value, ("b", "k"): value, ("c", "k"): value},
        uses={("b",): Span("f", 5, 4), ("c",): Span("f", 7, 4)},
        lines={"f": ("a: &x {k: 1}",)},
    )
    found = locate([Problem("E1", "m", (name, "k")) for name in "abc"], sources)
    assert [problem.message for problem in found] == ["m (used at f:5:4, f:7:4)"]
