"""The plan as a JSON document: written to review, read back to be carried out.

Versioned by ``schema``. Equal plans give equal text. Reading an unknown version is refused with
the command that makes a new plan.
"""

from __future__ import annotations

import json
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


def plan_schema() -> dict[str, object]:
    """The JSON Schema of the document."""
    return _adapter().json_schema()
