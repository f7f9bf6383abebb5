"""Pages exist for every code, reason, signal and GPU type, and near misses are told."""

from __future__ import annotations

import pytest

from enova.base.errors import SpecError
from enova.capacity.catalog import gpus
from enova.policy.signals import MEANINGS
from enova.spec.codes import CODES
from enova.stack.owners import Reason
from enova.workflows.explain import REASONS, explain


def test_every_reason_has_words() -> None:
    assert set(REASONS) == set(Reason)
    assert all(f"  {reason.value} " in explain("reasons") for reason in Reason)


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_a_page(code: str) -> None:
    assert explain(code).startswith(code)
    assert explain(f" {code.lower()} ") == explain(code)
    assert code in explain("codes")


def test_lists_are_whole() -> None:
    assert all(name in explain("gpus") for name in gpus.all_gpus())
    assert all(name in explain("signals") for name in MEANINGS)


def test_fields_by_the_end_of_their_path() -> None:
    assert explain("goals.ttft").startswith("services.NAME.goals.ttft")
    assert explain("spec").startswith("spec")


def test_without_a_subject_it_says_what_there_is() -> None:
    assert all(f"enova explain {word}" in explain("") for word in ("gpus", "reasons", "spec"))


@pytest.mark.parametrize(
    ("subject", "hint"),
    [("goals.tftt", "goals.ttft"), ("reason", '"reasons"'), ("E999", "enova explain")],
)
def test_near_misses(subject: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        explain(subject)
    assert hint in caught.value.problems[0].hint
