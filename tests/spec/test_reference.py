"""The reference of fields follows the models."""

from __future__ import annotations

import pytest

from enova.base.errors import SpecError
from enova.spec.model import Section, Spec
from enova.spec.overlay import SHORTHANDS
from enova.spec.reference import all_fields, dotted_path, explain_path, field_at
from enova.spec.suggest import nearest
from tests.spec.examples import SMALLEST, read


def test_a_page_says_what_the_model_says() -> None:
    assert explain_path("services.chat.goals.ttft").text() == (
        "services.NAME.goals.ttft\n"
        "\n"
        "  Time to first token.\n"
        "\n"
        "  type      a duration or a map of p50, p90, p95, p99 to a duration\n"
        "  default   not set\n"
        "  example   400ms\n"
        "  example   {p95: 400ms}\n"
        "\n"
        "  p50\n"
        "  p90\n"
        "  p95\n"
        "  p99"
    )


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ("services.anything.scale.min", "services.NAME.scale.min"),
        ("goals.ttft", "services.NAME.goals.ttft"),
        ("scale", "services.NAME.scale"),
        ("pool.hosts[3].devices", "pool.hosts[0].devices"),
        ("pool.hosts.0.name", "pool.hosts[0].name"),
        ("engine.env.HF_TOKEN", "services.NAME.engine.env.NAME"),
        ("max_body", "gateway.limits.max_body"),
        ("", "spec"),
    ],
)
def test_a_field_is_found_by_path_or_ending(asked: str, path: str) -> None:
    assert explain_path(asked).path == path


def test_an_unknown_field_has_a_guess() -> None:
    with pytest.raises(SpecError) as caught:
        explain_path("scale.max_replicas")
    assert caught.value.problems[0].hint == 'Did you mean "services.NAME.scale.max"?'
    with pytest.raises(SpecError):
        explain_path("\x1b[2J.zzz")


def test_every_field_has_a_page() -> None:
    paths = [dotted_path(field.path) for field in all_fields()]
    assert len(paths) == len(set(paths)) > 80
    for field in all_fields():
        page = explain_path(dotted_path(field.path))
        assert page.description and page.type, page.path
        assert all(line == line.rstrip() for line in page.text().splitlines())


def test_every_example_of_a_model_is_accepted() -> None:
    """An example in the reference that does not load would be worse than none."""
    seen = 0
    for field in all_fields():
        examples = (field.info.examples if field.info else None) or ()
        for example in examples:
            if field.path[:1] != ("services",) or len(field.path) < 3:
                continue
            seen += 1
            document = read(SMALLEST).document
            here = document["services"]["chat"]
            for part in field.path[2:-1]:
                here = here.setdefault(part, {}) if isinstance(here.get(part), dict | None) else {}
            here[field.path[-1]] = example
            Spec.model_validate(document)
    assert seen > 10


def test_shorthands_are_those_of_the_models() -> None:
    scalar_and_map = set()
    for field in all_fields():
        if field.path[:1] == ("services",) and " or a map" in field.expected():
            pattern = tuple("*" if part == "NAME" else str(part) for part in field.path)
            scalar_and_map.add(pattern)
    assert scalar_and_map == set(SHORTHANDS)


def test_every_section_is_described() -> None:
    for section in Section.__subclasses__():
        assert section.__doc__, section
        for name, info in section.model_fields.items():
            assert info.description, f"{section.__name__}.{name}"


@pytest.mark.parametrize(
    ("word", "possible", "meant"),
    [
        ("max_replicas", ["min", "max"], "max"),
        ("maxModelLen", ["max_model_len", "id"], "max_model_len"),
        ("trafic", ["traffic", "goals"], "traffic"),
        ("slo", ["traffic", "goals"], "goals"),
        ("qqq", ["traffic", "goals"], None),
        ("", ["traffic"], None),
        ("x" * 100_000, ["traffic"], None),
    ],
)
def test_guesses(word: str, possible: list[str], meant: str | None) -> None:
    assert nearest(word, possible) == meant


def test_a_path_outside_the_grammar_is_none() -> None:
    assert field_at(("services", "chat", "goals", "ttft", "p98")) is None
    assert field_at(("services", "chat", "model", "id", "x")) is None
    assert field_at((0,)) is None
