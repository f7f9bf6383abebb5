"""Field types of the spec whose text carries a unit, with the JSON Schema editors need.

In: YAML scalars such as ``400ms``. Out: plain numbers (seconds, events per second, bytes, USD/h).
A number without a unit is refused: nobody can tell milliseconds from seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, WithJsonSchema

from enova.base import units

T = TypeVar("T", int, float)


def _with_unit(parse: Callable[[str], T]) -> Callable[[object], T]:
    """A validator from a parser of text; what is not text, and what is not finite, is refused."""

    def read(value: object) -> T:
        text = value if isinstance(value, str) else shown(value)
        try:
            number = parse(text)
            finite = math.isfinite(number)
        except OverflowError:
            finite = False
        if not finite:
            raise ValueError(f'a smaller number is needed; "{text}" is not one')
        return number

    return read


def shown(value: object) -> str:
    """A value as it would be written in the file, short; a map or list only by its kind."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a map"
    return "a list" if isinstance(value, list) else str(value)


@dataclass(frozen=True)
class Unit:
    """What a quantity is called and how one is written, for the reference."""

    name: str
    example: str

    def name_with_article(self) -> str:
        """``a duration``."""
        return f"a {self.name}"


def _text(pattern: str, example: str) -> WithJsonSchema:
    schema: dict[str, Any] = {"type": "string", "pattern": pattern, "examples": [example]}
    return WithJsonSchema(schema)


Duration = Annotated[
    float,
    BeforeValidator(_with_unit(units.parse_duration)),
    _text(r"^([0-9]+(\.[0-9]+)?\s*(us|ms|s|min|m|h|d))+$", "400ms"),
    Unit("duration", "400ms"),
]
PositiveDuration = Annotated[Duration, Field(gt=0)]
Rate = Annotated[
    float,
    BeforeValidator(_with_unit(units.parse_rate)),
    _text(r"^[0-9]+(\.[0-9]+)?\s*/\s*(s|sec|min|m|h)$", "20/s"),
    Unit("rate", "20/s"),
]
PositiveRate = Annotated[Rate, Field(gt=0)]
Bytes = Annotated[
    int,
    BeforeValidator(_with_unit(units.parse_bytes)),
    _text(r"^[0-9]+(\.[0-9]+)?\s*(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$", "24GiB"),
    Unit("size", "24GiB"),
]
PositiveBytes = Annotated[Bytes, Field(gt=0)]
Price = Annotated[
    float,
    BeforeValidator(_with_unit(units.parse_price)),
    _text(r"^[0-9]+(\.[0-9]+)?\s*(USD|\$)\s*/\s*(h|hour)$", "2.49 USD/h"),
    Unit("price", "2.49 USD/h"),
]
PositivePrice = Annotated[Price, Field(gt=0)]
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
    Unit("share", "99%"),
]
