"""The committed reference is what the models say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from enova.spec.reference_page import reference_page

PAGE = Path(__file__).parents[2] / "docs" / "spec.md"


def test_the_committed_reference_is_current(golden: Callable[[Path, str], None]) -> None:
    golden(PAGE, reference_page())
