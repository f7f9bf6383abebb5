"""Whole sessions at the command line, compared with their transcripts.

A session is a YAML file; its transcript lies beside it. ``ENOVA_REWRITE=1`` (or
``--rewrite-golden``) writes the transcripts anew: read the difference before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tests.transcript.session import Session

SESSIONS = Path(__file__).parent / "sessions"


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No colours, a known width."""
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR", "ENOVA_ENVOY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("path", sorted(SESSIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_session(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    actual = Session(tmp_path, data).run()
    expected = path.with_suffix(".txt")
    if os.environ.get("ENOVA_REWRITE") or request.config.getoption("--rewrite-golden"):
        expected.write_text(actual, encoding="utf-8")
        return
    assert actual == expected.read_text(encoding="utf-8"), f"differs from {expected}"


def test_every_transcript_has_its_session() -> None:
    assert {p.stem for p in SESSIONS.glob("*.txt")} == {p.stem for p in SESSIONS.glob("*.yaml")}
