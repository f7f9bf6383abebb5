"""Each thing that is wrong with a machine is found and comes with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from enova.base.errors import Unreachable
from enova.capacity.inventory import from_plain
from enova.effects import programs
from enova.effects.clock import ManualClock
from enova.effects.drivers.fake import World
from enova.workflows.doctor import Check, doctor
from enova.workflows.wiring import Surroundings
from tests.transcript.session import POOL, WatchedDriver

pytestmark = pytest.mark.real  # asks the programs for their versions


def surroundings(
    folder: Path, world: dict[str, object] | None = None, **environment: str
) -> Surroundings:
    driver = WatchedDriver(World(inventory=from_plain(world or POOL)))
    given = {"ENOVA_STATE_DIR": str(folder), "PATH": str(folder / "bin"), **environment}
    return Surroundings(given, ManualClock(), lambda *_, **__: driver)


def found(checks: list[Check], name: str) -> Check:
    (check,) = [check for check in checks if check.name == name]
    return check


def program(folder: Path, name: str, text: str) -> None:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_machine_with_gpus(tmp_path: Path) -> None:
    checks = doctor(surroundings(tmp_path))
    assert found(checks, "gpus") == Check("gpus", "ok", "4 x h100-sxm-80gb")
    assert found(checks, "processor").found == "32 cores, 256.0 GiB of memory"
    assert found(checks, "envoy").verdict == "ok"
    assert found(checks, "state").verdict == "ok"
    assert all(check.remedy for check in checks if check.verdict != "ok")


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    doctor(surroundings(tmp_path / "state"))
    assert list(tmp_path.iterdir()) == []


def test_a_state_folder_others_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    check = found(doctor(surroundings(tmp_path)), "state")
    assert (check.verdict, check.remedy) == ("fail", f"chmod go-w {tmp_path}")


def test_an_envoy_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "envoy", "echo cannot load libc; exit 3")
    monkeypatch.setenv("ENOVA_ENVOY", str(tmp_path / "bin" / "envoy"))
    check = found(doctor(surroundings(tmp_path)), "envoy")
    assert check.verdict == "fail"
    assert "cannot load libc" in check.found


def test_prometheus_tells_its_version(tmp_path: Path) -> None:
    program(tmp_path, "prometheus", "echo 'prometheus, version 3.5.0 (branch: x)'")
    check = found(doctor(surroundings(tmp_path)), "prometheus")
    assert check.verdict == "ok"
    assert check.found.startswith("3.5.0 at ")


@pytest.mark.parametrize(("version", "verdict"), [("0.32.0", "ok"), ("0.1.0", "fail")])
def test_the_version_of_vllm_without_starting_it(
    tmp_path: Path, version: str, verdict: str
) -> None:
    program(tmp_path, "vllm", "exit 9")
    package = tmp_path / "lib" / "python3.11" / "site-packages" / f"vllm-{version}.dist-info"
    package.mkdir(parents=True)
    check = found(doctor(surroundings(tmp_path)), "vllm")
    assert (check.verdict, version in check.found) == (verdict, True)


def test_a_pool_that_cannot_be_seen(tmp_path: Path) -> None:
    def silent(*_: object, **__: object) -> WatchedDriver:
        raise Unreachable("no answer")

    given = Surroundings({"ENOVA_STATE_DIR": str(tmp_path)}, ManualClock(), silent)
    assert found(doctor(given), "devices") == Check("devices", "fail", "no answer")


def test_a_program_that_is_not_there() -> None:
    assert programs.ask(["/nowhere/at/all"]).problem == "No such file or directory"
