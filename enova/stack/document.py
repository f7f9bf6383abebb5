"""The plan as a JSON document: written to review, read back to be carried out.

Versioned by ``schema``. Equal plans give equal text. An older version is read as what it means now;
an unknown one is refused with the command that makes a new plan.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache

from pydantic import TypeAdapter, ValidationError

from enova.base.digest import plain
from enova.base.errors import Refused
from enova.stack.plan import SCHEMA, Plan


@cache
def _adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def plan_to_json(plan: Plan) -> str:
    """The plan as indented JSON with sorted keys and a final newline."""
    return json.dumps(plain(plan), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def plan_from_json(text: str) -> Plan:
    """The plan written by ``plan_to_json``. Raises Refused when it is not one we can carry out."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise Refused(f"not a saved plan: {error}") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema == 1:
        data, schema = _from_first(data), SCHEMA
    if schema != SCHEMA:
        raise Refused(
            f"this plan has format version {schema}, this enova reads version {SCHEMA}. "
            "Make a new one: enova plan SPEC --save FILE"
        )
    try:
        return _adapter().validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(f"not a saved plan: {where}: {first['msg']}") from error


def _from_first(data: object) -> object:
    """Version 1 knew one monitor, and called it by its name."""
    if isinstance(data, list):
        return [_from_first(item) for item in data]
    if not isinstance(data, dict):
        return data
    made = {key: _from_first(value) for key, value in data.items()}
    if "schema" in made and "actions" in made:
        made["schema"] = SCHEMA
    if made.get("kind") == "stop-prometheus":
        made["kind"] = "stop-monitor"
    if made.get("kind") == "start-prometheus":
        wanted = made.pop("prometheus", None)
        asked = wanted if isinstance(wanted, Mapping) else {}
        made["kind"] = "start-monitor"
        made["monitor"] = {
            "name": "prometheus",
            "port": asked.get("port"),
            "settings": [
                ["retention", asked.get("retention_s")],
                ["scrape_interval", asked.get("scrape_interval_s")],
            ],
        }
    return made


def plan_schema() -> dict[str, object]:
    """The JSON Schema of the document."""
    return _adapter().json_schema()
