"""A fixture that runs real emulator processes and leaves none behind."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

DEADLINE_S = 20.0


class Emulator:
    """One process and its address."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        command = [sys.executable, "-m", "enova.services.emulator", "tiny"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), *arguments]
        with log.open("w") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition; fail with the log when it does not come."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{what} did not happen; log:\n{self.log}")
            time.sleep(0.01)

    def ready(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"exited with {self.process.returncode}; log:\n{self.log}")
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health").status_code == 200
        return False

    def exit_code(self) -> int:
        return self.process.wait(DEADLINE_S)

    def post(self, path: str, body: object, **more: object) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=DEADLINE_S, **more)

    def metric(self, name: str, **labels: str) -> float:
        """The one sample with this name and these labels."""
        text = httpx.get(f"{self.url}/metrics").text
        found = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) == 1, f"{name} {labels}: {found}"
        return found[0]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Emulator]]:
    """``start(*arguments, wait=True)``: a running emulator."""
    started: list[Emulator] = []

    def begin(*arguments: str, wait: bool = True) -> Emulator:
        emulator = Emulator(list(arguments), tmp_path / f"emulator-{len(started)}.log")
        started.append(emulator)
        if wait:
            emulator.until(emulator.ready, "the emulator answering /health")
        return emulator

    yield begin
    for emulator in started:
        emulator.close()


@pytest.fixture
def events() -> Callable[[str], list[dict[str, object]]]:
    """The JSON of server-sent events, without the end mark, which must be there."""

    def parse(text: str) -> list[dict[str, object]]:
        lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]

    return parse
