"""Quantities as people write them, and the plain numbers the rest of the code computes with.

In: text such as ``500ms``, ``20/s``, ``24GiB``, ``2.49 USD/h``. Out: seconds, events per second,
bytes and USD per hour as plain numbers. Every parser raises ``ValueError`` with a sentence that
says what was expected; ``spec`` turns that sentence into a problem with a position.
"""

from __future__ import annotations

import math
import re

_NUMBER = r"(?P<number>[0-9]+(?:\.[0-9]+)?)"
_DURATION_PART = re.compile(rf"{_NUMBER}\s*(?P<unit>us|ms|s|min|m|h|d)")
_RATE = re.compile(rf"^{_NUMBER}\s*/\s*(?P<unit>s|sec|min|m|h)$")
_BYTES = re.compile(rf"^{_NUMBER}\s*(?P<unit>B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$")
_PRICE = re.compile(rf"^{_NUMBER}\s*(?P<currency>USD|\$)\s*/\s*(?P<unit>h|hour)$")
_PERCENT = re.compile(rf"^{_NUMBER}\s*%$")

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PER_SECOND = {"s": 1.0, "sec": 1.0, "m": 1 / 60, "min": 1 / 60, "h": 1 / 3600}
_BYTE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}


_DIGITS = 12
"""Decimal places kept: 700ms is 0.7, not the 0.7000000000000001 of binary fractions."""


def parse_duration(text: str) -> float:
    """Seconds from ``500ms``, ``2s``, ``1m30s``, ``1h``. Raises ValueError."""
    stripped = text.strip()
    total, end = 0.0, 0
    for part in _DURATION_PART.finditer(stripped):
        if part.start() != end:
            break
        total += float(part["number"]) * _SECONDS[part["unit"]]
        end = part.end()
    if end == 0 or end != len(stripped):
        raise ValueError(f'a duration is needed, for example 400ms, 2s or 5m; "{text}" is not one')
    return round(total, _DIGITS)


def parse_rate(text: str) -> float:
    """Events per second from ``20/s``, ``400/min``, ``9000/h``. Raises ValueError."""
    match = _RATE.match(text.strip())
    if match is None:
        raise ValueError(f'a rate is needed, for example 20/s or 400/min; "{text}" is not one')
    return float(match["number"]) * _PER_SECOND[match["unit"]]


def parse_bytes(text: str) -> int:
    """Bytes from ``24GiB`` or ``80GB``. Raises ValueError."""
    match = _BYTES.match(text.strip())
    if match is None:
        raise ValueError(f'a size is needed, for example 24GiB or 80GB; "{text}" is not one')
    return int(float(match["number"]) * _BYTE_UNITS[match["unit"]])


def parse_price(text: str) -> float:
    """USD per hour from ``2.49 USD/h`` or ``2.49 $/h``. Raises ValueError."""
    match = _PRICE.match(text.strip())
    if match is None:
        raise ValueError(f'a price is needed, for example 2.49 USD/h; "{text}" is not one')
    return float(match["number"])


def parse_fraction(text: str) -> float:
    """A fraction 0..1 from ``99%`` or ``0.99``. Raises ValueError."""
    match = _PERCENT.match(text.strip())
    try:
        value = round(float(match["number"]) / 100, _DIGITS) if match else float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(f'a share is needed, for example 99% or 0.99; "{text}" is not one')
    return value


def format_duration(seconds: float) -> str:
    """``0.4`` as ``400 ms``, ``90`` as ``1m30s``, three significant digits."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if minutes else f"{hours}h"


def format_rate(per_second: float) -> str:
    """``0.5`` as ``30/min``, ``20`` as ``20/s``."""
    if 0 < per_second < 1:
        return f"{per_second * 60:.3g}/min"
    return f"{per_second:.4g}/s"


def format_share(share: float) -> str:
    """``0.457`` as ``45.7 %``; from 90 % on with three decimals, and never rounded up to more."""
    if share < 0.9:
        return f"{100 * share:.3g} %"
    return f"{math.floor(share * 1e5 + 1e-6) / 1e3:g} %"


def format_bytes(count: float) -> str:
    """``25769803776`` as ``24.0 GiB``."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if abs(count) >= _BYTE_UNITS[unit]:
            return f"{count / _BYTE_UNITS[unit]:.1f} {unit}"
    return f"{count:.0f} B"
