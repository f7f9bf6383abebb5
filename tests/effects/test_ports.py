"""Free ports, and who has the others."""

from __future__ import annotations

import os
import socket

import pytest

from enova.base.errors import Refused
from enova.effects.drivers import ports


def test_a_port_in_use_is_passed_over_and_its_owner_named() -> None:
    first = ports.free_port((), seed="x")
    with socket.socket() as mine:
        mine.bind(("127.0.0.1", first))
        mine.listen()
        assert not ports.is_free(first)
        assert f"pid {os.getpid()}" in ports.owner(first)
        assert ports.free_port((), seed="x") != first
    assert ports.is_free(first)


def test_a_listener_on_every_address_counts() -> None:
    first = ports.free_port((), seed="y")
    with socket.socket() as mine:
        mine.bind(("0.0.0.0", first))
        mine.listen()
        assert not ports.is_free(first)


def test_promised_ports_are_left_alone() -> None:
    taken: set[int] = set()
    for _ in range(5):
        port = ports.free_port(taken, seed="z")
        assert port not in taken
        assert ports.FIRST <= port < ports.LAST
        taken.add(port)


def test_a_full_range_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "LAST", ports.FIRST + 3)
    with pytest.raises(Refused, match="no free port between"):
        ports.free_port(range(ports.FIRST, ports.LAST), seed="x")


def test_a_port_nobody_has_has_no_owner_to_see() -> None:
    port = ports.free_port((), seed="q")
    assert ports.owner(port) == "a process this user may not see"
