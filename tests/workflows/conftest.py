"""One stack of two chat replicas on eight GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.rehearsal import Rehearsal, hosts


@pytest.fixture
def web(tmp_path: Path) -> Rehearsal:
    """Nothing applied yet."""
    return Rehearsal(tmp_path, hosts(8))
