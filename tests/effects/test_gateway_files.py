"""The gateway's files on disk: written in one step, private, and read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enova.base.secret import Secret
from enova.effects.gateway import (
    command_line,
    envoy_binary,
    members_path,
    read_members,
    write_document,
    write_files,
    write_members,
)
from enova.stack.render.envoy_members import Member
from enova.stack.render.envoy_secrets import render_api_keys

ONE = Member("chat-replica-0.g1", "127.0.0.1", 8001)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_members_are_written_and_read_by_service(tmp_path: Path) -> None:
    assert read_members(tmp_path, "chat") == ()
    write_members(tmp_path / "members", "chat", [ONE])
    write_members(tmp_path / "members", "code", [])
    assert read_members(tmp_path / "members", "chat") == (ONE,)
    assert read_members(tmp_path / "members", "code") == ()
    assert names(tmp_path / "members") == ["chat.json", "code.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_members(tmp_path, "chat", [ONE])
    before = members_path(tmp_path, "chat").read_bytes()
    with pytest.raises(TypeError):
        write_document(members_path(tmp_path, "chat"), {"x": object()})
    assert members_path(tmp_path, "chat").read_bytes() == before
    assert names(tmp_path) == ["chat.json"]


def test_files_are_private(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    write_files(tmp_path, {"keys.json": render_api_keys({"alice": Secret("sk-a")})})
    assert keys.stat().st_mode & 0o777 == 0o600


def test_a_file_somebody_else_wrote_is_refused(tmp_path: Path) -> None:
    members_path(tmp_path, "chat").write_text(json.dumps({"resources": [{}]}))
    with pytest.raises(ValueError, match="membership"):
        read_members(tmp_path, "chat")


def test_the_binary_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENOVA_ENVOY", "/opt/envoy")
    assert envoy_binary() == Path("/opt/envoy")


def test_the_command_is_a_list_of_words() -> None:
    words = command_line(Path("/opt/envoy"), Path("/s/a b.json"), concurrency=3)
    assert words[:3] == ("/opt/envoy", "-c", "/s/a b.json")
    assert words[words.index("--concurrency") + 1] == "3"
    assert "--disable-hot-restart" in words
