"""A real Envoy in front of stand-in engines, all on loopback, all gone at the end of the test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gateway_world import Backend, Gateway, Start, free_port, until

from enova.effects.gateway import write_members
from enova.stack.render.envoy_settings import GatewayService, GatewaySettings
from tests.parts import real


@pytest.fixture(scope="session")
def _pool() -> Iterator[list[Backend]]:
    """Engines are shared by all tests; a killed one is started again."""
    engines = [Backend(f"chat-replica-{slot}") for slot in range(3)]
    yield engines
    for engine in engines:
        if engine.process is not None:
            engine.process.kill()
            engine.process.wait()


@pytest.fixture
def backends(_pool: list[Backend]) -> list[Backend]:
    """Three healthy engines that have seen nothing."""
    for engine in _pool:
        if engine.process is None or engine.process.poll() is not None:
            engine.start()
    for engine in _pool:
        until(lambda e=engine: _alive(e))  # type: ignore[misc]  # a default binds the loop variable
        engine.control(health=200, fail=0, hang=False, close=False, reset=True)
    return _pool


def _alive(engine: Backend) -> bool:
    try:
        httpx.get(engine.url("/seen"), timeout=2, verify=False)
    except httpx.TransportError:
        return False
    return True


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a unix socket's may have 107 characters."""
    path = Path(tempfile.mkdtemp(prefix="egw-"))
    (path / "members").mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start a gateway: ``start(GatewayService(...), ..., port=...)`` with settings by keyword."""
    real.envoy_binary()  # without it the test ends, skipped or failed as for every real part
    started: list[Gateway] = []

    def begin(*services: GatewayService, **more: object) -> Gateway:
        number = len(started)
        services = services or (GatewayService("chat", ("tiny",)),)
        settings = GatewaySettings(
            **{
                "stack": "demo",
                "services": services,
                "members_dir": str(folder / "members"),
                "config_dir": str(folder / f"config-{number}"),
                "access_log_path": str(folder / "access.log"),
                "port": free_port(),
                "admin_path": str(folder / f"admin-{number}.sock"),
                **more,
            }  # type: ignore[arg-type]  # the keywords of the tests are right
        )
        for service in services:
            if not (folder / "members" / f"{service.name}.json").exists():
                write_members(folder / "members", service.name, ())
        gateway = Gateway(folder, settings)
        started.append(gateway)
        gateway.start()
        return gateway

    yield begin
    for gateway in reversed(started):
        gateway.stop()
