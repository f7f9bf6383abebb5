"""Field types of the spec whose text carries a unit, with the JSON Schema editors need.

In: YAML scalars such as ``400ms``. Out: plain numbers (seconds, events per second, bytes, USD/h).
A number without a unit is refused: nobody can tell milliseconds from seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, WithJsonSchema

from enova.base import units

T = TypeVar("T")


def _with_unit(parse: Callable[[str], T]) -> Callable[[object], T]:
    def read(value: object) -> T:
        return parse(value if isinstance(value, str) else str(value))

    return read


def _text(pattern: str, example: str) -> WithJsonSchema:
    schema: dict[str, Any] = {"type": "string", "pattern": pattern, "examples": [example]}
    return WithJsonSchema(schema)


Duration = Annotated[
    float,
    BeforeValidator(_with_unit(units.parse_duration)),
    _text(r"^([0-9]+(\.[0-9]+)?\s*(us|ms|s|min|m|h|d))+$", "400ms"),
]
Rate = Annotated[
    float,
    BeforeValidator(_with_unit(units.parse_rate)),
    _text(r"^[0-9]+(\.[0-9]+)?\s*/\s*(s|sec|min|m|h)$", "20/s"),
]
Bytes = Annotated[
    int,
    BeforeValidator(_with_unit(units.parse_bytes)),
    _text(r"^[0-9]+(\.[0-9]+)?\s*(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$", "24GiB"),
]
Price = Annotated[
    float,
    BeforeValidator(_with_unit(units.parse_price)),
    _text(r"^[0-9]+(\.[0-9]+)?\s*(USD|\$)\s*/\s*(h|hour)$", "2.49 USD/h"),
]
Fraction = Annotated[
    float,
    BeforeValidator(_with_unit(units.parse_fraction)),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s*%$"},
                {"type": "number", "minimum": 0, "maximum": 1},
            ],
            "examples": ["99%"],
        }
    ),
]
