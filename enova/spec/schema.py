"""The JSON Schema of a spec, generated from the models, for editors and other tools.

In: nothing. Out: plain data, published as ``specs/enova.schema.json``. It says what one value may
be; what values may not contradict is said by ``spec.checks`` alone.
"""

from __future__ import annotations

import json
from typing import Any

from enova.base.source import Path
from enova.spec.model import Spec
from enova.spec.reference import default_text, field_at

FILE_NAME = "enova.schema.json"


def json_schema() -> dict[str, Any]:
    """The schema as data, keys in a stable order."""
    generated = Spec.model_json_schema(mode="validation")
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": FILE_NAME,
        **generated,
        "title": "enova spec",
    }
    sections: dict[str, Path] = {"Spec": ()}
    definitions = generated.get("$defs", {})
    _find_sections((), generated, definitions, sections)
    for name, section in [("Spec", schema), *definitions.items()]:
        _tidy(section, sections.get(name))
    return schema


def schema_text() -> str:
    """The schema as the text of the published file."""
    return json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"


def _find_sections(
    path: Path, node: object, definitions: dict[str, Any], found: dict[str, Path]
) -> None:
    """Note for each definition a path of the grammar at which it stands."""
    if isinstance(node, list):
        for item in node:
            _find_sections(path, item, definitions, found)
    if not isinstance(node, dict):
        return
    reference = node.get("$ref")
    if isinstance(reference, str):
        name = reference.rpartition("/")[2]
        if name not in found:
            found[name] = path
            _find_sections(path, definitions[name], definitions, found)
    for key, value in node.get("properties", {}).items():
        _find_sections((*path, key), value, definitions, found)
    _find_sections((*path, "NAME"), node.get("additionalProperties"), definitions, found)
    for value in node.get("patternProperties", {}).values():
        _find_sections((*path, "NAME"), value, definitions, found)
    _find_sections((*path, 0), node.get("items"), definitions, found)
    for key in ("anyOf", "oneOf", "allOf"):
        _find_sections(path, node.get(key), definitions, found)


def _tidy(section: dict[str, Any], path: Path | None) -> None:
    """Drop generated titles and nulls nobody writes; give quantities their default as text."""
    section.pop("title", None)
    if path == ():
        section["title"] = "enova spec"
    section["description"] = " ".join(section.get("description", "").split("\n\n")[0].split())
    for key, value in section.get("properties", {}).items():
        value.pop("title", None)
        field = field_at((*path, key)) if path is not None else None
        default = value.get("default")
        if default is None:
            value.pop("default", None)
        elif field is not None and field.unit is not None:
            value["default"] = default_text(field.unit, default)
        if "patternProperties" in value:
            value["additionalProperties"] = False
