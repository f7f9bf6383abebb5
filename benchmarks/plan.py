"""How long a plan takes: sizing anew, with the lock, and the pure planner alone.

    python benchmarks/plan.py

Whole processes for the first two (imports included), as a ratio to an interpreter that does
nothing; one call in process for the third. Ten services on a pool of 64 GPUs, nothing running.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from enova.workflows.loading import Source
from enova.workflows.plan import inputs_for, plan
from enova.workflows.wiring import Surroundings, gather

SERVICES = 10
RUNS = 7
MODELS = ("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-7B-Instruct")


def spec_text() -> str:
    services = "".join(
        f"  s{number}:\n"
        f"    model: {MODELS[number % len(MODELS)]}\n"
        "    engine: emulator\n"
        "    traffic: {peak: 20/s, input_tokens: 512, output_tokens: 128}\n"
        "    goals: {ttft: 400ms, tpot: 40ms}\n"
        for number in range(SERVICES)
    )
    pool = "pool:\n  hosts:\n    - {name: local, devices: [{gpu: h100-sxm-80gb, count: 64}]}\n"
    return f"version: 1\nname: bench\nservices:\n{services}{pool}"


def median_of(work: Callable[[], object]) -> float:
    work()
    taken = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "bench.enova.yaml"
        spec.write_text(spec_text(), encoding="utf-8")
        environment = {**os.environ, "ENOVA_STATE_DIR": f"{folder}/state"}
        enova = [sys.executable, "-m", "enova", "plan", str(spec), "-o", "json"]

        def run(*command: str) -> None:
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

        bare = median_of(lambda: run(sys.executable, "-c", "pass"))
        sized = median_of(lambda: run(*enova))
        run(sys.executable, "-m", "enova", "lock", str(spec))
        locked = median_of(lambda: run(*enova))

        planned = plan(Source(str(spec)), Surroundings(environment))
        seen = gather(planned.site)
        inputs = inputs_for(planned.site, planned.spec, seen, planned.chosen)
        from enova.stack.plan import plan as pure

        alone = median_of(lambda: pure(inputs))
    rows = [
        ("python -c pass", bare),
        (f"enova plan, {SERVICES} services sized anew", sized),
        (f"enova plan, {SERVICES} services from the lock", locked),
        ("stack.plan.plan alone", alone),
    ]
    for name, seconds in rows:
        print(f"{name:<42} {seconds * 1000:8.1f} ms  {seconds / bare:6.1f} x")


if __name__ == "__main__":
    main()
