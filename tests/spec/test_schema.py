"""The published schema is the models', and says yes and no where the models do."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from enova.base import units
from enova.spec.load import load
from enova.spec.model import Spec
from enova.spec.quantity import Unit
from enova.spec.reference import all_fields, default_text
from enova.spec.schema import FILE_NAME, json_schema, schema_text
from enova.spec.starter import starter
from enova.spec.yaml import SourceText
from tests.spec.examples import RICH, SMALLEST, read

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(json_schema())
READY = sorted((ROOT / "specs").glob("*.enova.yaml"))


def test_the_published_schema_is_current(golden: Any) -> None:
    golden(ROOT / "specs" / FILE_NAME, schema_text())


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


def test_every_property_is_described() -> None:
    schema = json_schema()
    for name, section in [("Spec", schema), *schema["$defs"].items()]:
        assert section["description"], name
        for key, value in section["properties"].items():
            assert "description" in value or "$ref" in value, f"{name}.{key}"


def test_defaults_of_quantities_are_as_people_write_them() -> None:
    parsers = {
        "duration": units.parse_duration,
        "rate": units.parse_rate,
        "size": units.parse_bytes,
        "price": units.parse_price,
        "share": units.parse_fraction,
    }
    seen = 0
    for field in all_fields():
        if field.unit is None or field.info is None or field.info.is_required():
            continue
        default = field.info.default
        if default is not None:
            seen += 1
            assert parsers[field.unit.name](default_text(field.unit, default)) == pytest.approx(
                default
            )
    assert seen > 8
    assert default_text(Unit("rate", "20/s"), 0.5) == "30/min"


@pytest.mark.parametrize("text", [SMALLEST, RICH, starter("./x")], ids=["small", "rich", "init"])
def test_examples_satisfy_both(text: str) -> None:
    assert list(VALIDATOR.iter_errors(read(text).document)) == []


@pytest.mark.parametrize("path", READY, ids=lambda path: path.name)
def test_ready_specs_load_without_a_remark(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    loaded = load([SourceText(path.name, text)], environment={})
    assert text.startswith(f"# yaml-language-server: $schema=./{FILE_NAME}\n")
    assert loaded.notes == ()
    assert list(VALIDATOR.iter_errors(loaded.document)) == []


def test_there_are_ready_specs() -> None:
    assert len(READY) >= 3


VALUES: tuple[object, ...] = (
    None, True, 3, -1, 0, 70000, 2.5, "x", "", "400ms", "400", "20/s", "24GiB", "2.49 USD/h", 
    "30%", "vllm", "emulator", "auto", "on", "prefix", "process", [], {}, ["x"], {"p95": "1s"}, 
    {"p98": "1s"},
    {"mean": 5}, {"env": "A"}, {"name": "a"}, [{"name": "a"}], [{"gpu": "a"}], {"a": "b"}, {"a": 1},
)  # fmt: skip


def test_schema_and_models_agree_on_mutated_documents() -> None:
    rng = random.Random(5)
    document = read(RICH).document
    paths = list(walk(document, ()))
    verdicts = {True: 0, False: 0}
    for _ in range(1500):
        mutated = copy.deepcopy(document)
        path = rng.choice(paths)
        here: Any = mutated
        for part in path[:-1]:
            here = here[part]
        kind = rng.randrange(4)
        if kind == 0 and isinstance(here, dict):
            here["extra"] = 1
        elif kind == 1 and isinstance(here, dict):
            del here[path[-1]]
        else:
            here[path[-1]] = copy.deepcopy(rng.choice(VALUES))
        try:
            Spec.model_validate(mutated)
            valid = True
        except ValidationError:
            valid = False
        errors = [error.message for error in VALIDATOR.iter_errors(mutated)]
        assert (not errors) is valid, (path, here, errors)
        verdicts[valid] += 1
    assert min(verdicts.values()) > 100


def walk(node: object, path: tuple[Any, ...]) -> Any:
    """Every path of a document."""
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node if isinstance(node, list) else [])
    )
    for key, value in items:
        yield (*path, key)
        yield from walk(value, (*path, key))


# --- the first spec


def test_the_first_spec_loads_and_names_its_schema() -> None:
    text = starter("../specs/enova.schema.json")
    assert text.startswith("# yaml-language-server: $schema=../specs/enova.schema.json\n")
    loaded = read(text)
    assert loaded.notes == ()
    assert loaded.spec.services["chat"].goals.ttft == {"p95": 0.5}
    assert text.count("# 1.") == text.count("# 2.") == text.count("# 3.") == 1


def test_the_first_spec_takes_its_names() -> None:
    spec = read(starter("x", name="shop", service="bot", model="./m", engine="emulator")).spec
    assert (spec.name, list(spec.services)) == ("shop", ["bot"])
    assert spec.services["bot"].engine.name == "emulator"


def test_the_commented_part_of_the_first_spec_loads_too() -> None:
    text = starter("x")
    head, _, tail = text.partition("# gateway:")
    lines = [line.removeprefix("# ") for line in f"# gateway:{tail}".splitlines()]
    loaded = read(head + "\n".join(lines) + "\n")
    assert loaded.spec.gateway.port == 9199
    assert loaded.spec.pool.hosts[0].devices != "auto"


def test_the_schema_text_is_json() -> None:
    assert json.loads(schema_text()) == json_schema()
