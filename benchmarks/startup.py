"""How long ``enova --help`` and ``enova validate`` take, as multiples of a bare interpreter.

Each command is started many times, the commands in turn so that a busy machine is unfair to all of
them alike; the median counts. Prints a table and the heaviest imports of ``validate``.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from enova.spec.starter import starter

RUNS = 15
MOST = 12.0
"""A verb that only reads may take so many times a bare interpreter."""


def seconds(command: list[str], folder: Path) -> float:
    begin = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - begin


def heaviest(command: list[str], folder: Path, count: int = 8) -> list[tuple[float, str]]:
    """The imports that took most by themselves, in milliseconds."""
    words = [command[0], "-X", "importtime", *command[1:]]
    done = subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True)
    found = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", done.stderr)
    return sorted(((int(own) / 1000, name) for own, name in found), reverse=True)[:count]


def main() -> None:
    python = sys.executable
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "chat.enova.yaml").write_text(starter("./enova.schema.json"))
        commands = {
            "python -c pass": [python, "-c", "pass"],
            "enova --version": [python, "-m", "enova", "--version"],
            "enova --help": [python, "-m", "enova", "--help"],
            "enova validate": [python, "-m", "enova", "validate"],
            "enova explain E107": [python, "-m", "enova", "explain", "E107"],
            "enova plan --help": [python, "-m", "enova", "plan", "--help"],
        }
        for command in commands.values():
            seconds(command, folder)
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(RUNS):
            for name, command in commands.items():
                times[name].append(seconds(command, folder))
        bare = statistics.median(times["python -c pass"])
        print(f"{'command':<20} {'median':>8} {'times bare':>11}")
        for name, found in times.items():
            median = statistics.median(found)
            print(f"{name:<20} {1000 * median:>5.0f} ms {median / bare:>11.1f}")
        worst = max(statistics.median(times[f"enova {v}"]) for v in ("--help", "validate")) / bare
        verdict = "within" if worst <= MOST else "over"
        print(f"\n--help and validate: {worst:.1f} times bare, {verdict} {MOST:.0f}")
        print("\nheaviest imports of validate, by themselves:")
        for own, module in heaviest(commands["enova validate"], folder):
            print(f"{own:>7.1f} ms  {module}")


if __name__ == "__main__":
    main()
