"""Every problem as the terminal shows it: one file of wrong YAML, one file of what is said.

To add a case, write ``problems/CODE-words.yaml`` (a line ``# set NAME=value`` sets a variable) and
run this test with ``--rewrite-golden``; then read what it wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from enova.base.errors import SpecError
from enova.base.problems import render_problems
from enova.spec.codes import CODES, explain_code
from enova.spec.load import load
from enova.spec.yaml import SourceText

FOLDER = Path(__file__).parent / "problems"
CASES = sorted(FOLDER.glob("*.yaml"))
ELSEWHERE = {"E119", "E130", "E131", "E140", "E227", "E228", "E229", "E230"}
"""Codes that no YAML text of a single file leads to; their own tests name them."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_a_problem_reads_as_recorded(case: Path, golden: Callable[[Path, str], None]) -> None:
    text = case.read_bytes().decode("utf-8")
    sets = re.findall(r"^# set (\w+)=(.*)$", text, re.MULTILINE)
    environment = {name: value.encode().decode("unicode_escape") for name, value in sets}
    with pytest.raises(SpecError) as caught:
        load([SourceText("chat.enova.yaml", text)], environment=environment)
    shown = render_problems(caught.value.problems) + "\n"
    golden(case.with_suffix(".txt"), shown)
    code = case.stem.split("-")[0]
    if code in CODES:
        assert code in {problem.code for problem in caught.value.problems}
    for value in environment.values():
        assert value not in shown


def test_every_code_has_a_case() -> None:
    shown = {
        code
        for case in FOLDER.glob("*.txt")
        for code in re.findall(r"\bE\d{3}\b", case.read_text())
    }
    assert {code for code in CODES if code.startswith("E")} - shown == ELSEWHERE
    assert shown <= set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_a_page(code: str) -> None:
    page = explain_code(code.lower())
    assert page is not None
    assert page.title and page.why.endswith(".") and page.fix.endswith(".")
    assert page.text().startswith(f"{code}  ")
    assert max(len(line) for line in page.example.splitlines() or [""]) < 90


def test_a_code_is_found_however_it_is_typed() -> None:
    assert explain_code("E999") is None
    assert explain_code(" e1o7 ") == CODES["E107"]
