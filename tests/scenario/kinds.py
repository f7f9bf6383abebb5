"""The stacks that the scenarios run on, as data: the same obligations hold for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.parts import real


@dataclass(frozen=True)
class Kind:
    """One kind of stack, and what the scenarios do to it. Services by name, times in seconds."""

    name: str
    services: Mapping[str, dict[str, Any]]
    devices: list[dict[str, Any]]
    prometheus: bool
    rate: float
    """Requests/s over all services that every scenario goes on under."""
    tokens: int
    change: Mapping[str, Any]
    """Engine arguments that make every replica of the first service another one."""
    refused: Mapping[str, Any]
    """Engine arguments with which the engine does not start."""
    refused_because: str
    victims: int
    """Replicas killed at a time."""
    start_s: float
    """Deadline for a replica to start, on a busy machine."""
    long_tokens: int
    """An answer of this length is still on its way when the killer comes."""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The service that scenarios change, kill and scale."""
        return next(iter(self.services))

    def counts(self) -> dict[str, int]:
        return {name: service["scale"]["min"] for name, service in self.services.items()}

    def spec(self, port: int) -> dict[str, Any]:
        return {
            "version": 1,
            "name": self.name,
            "services": dict(self.services),
            "gateway": {"port": port},
            "pool": {"hosts": [{"name": "local", "devices": self.devices}]},
            "monitoring": {
                "prometheus": "on" if self.prometheus else "off",
                "scrape_interval": "1s",
            },
            **self.extra,
        }


def _emulated(model: str, least: int, most: int, *, surge: int) -> dict[str, Any]:
    return {
        "model": model,
        "engine": {"name": "emulator", "args": {"max-num-seqs": 2}},
        "traffic": {"peak": f"{least / 2}/s", "input_tokens": 32, "output_tokens": 16},
        "scale": {"min": least, "max": most, "hold": "3s"},
        "rollout": {"surge": surge, "drain_timeout": "10s"},
    }


_LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
_QWEN = "Qwen/Qwen2.5-7B-Instruct"

_EMULATED: dict[str, Any] = {
    # Slow GPUs and two requests at a time: a load that any machine can make is one they feel.
    "devices": [{"gpu": "l4-24gb", "count": 26}],
    "tokens": 16,
    "change": {"max-num-batched-tokens": 4096},
    "refused": {"refuse-start": "the weights of this model are cursed"},
    "refused_because": "the weights of this model are cursed",
    "start_s": 30.0,
    "long_tokens": 100,
}

TWENTY = Kind(
    name="twenty",
    services={
        "chat": _emulated(_LLAMA, 12, 14, surge=4),
        "code": _emulated(_QWEN, 8, 8, surge=4),
    },
    prometheus=False,
    rate=10.0,
    victims=3,
    **_EMULATED,
)
"""Twenty emulated replicas of two services, without a Prometheus."""

FEW = Kind(
    name="few",
    services={"chat": _emulated(_LLAMA, 2, 4, surge=1)},
    prometheus=True,
    rate=3.0,
    victims=1,
    **_EMULATED,
)
"""Two emulated replicas, watched by a real Prometheus."""


def _as_map(words: Sequence[str]) -> dict[str, Any]:
    """Command-line words as the spec writes them."""
    found: dict[str, Any] = {}
    for word, following in zip(words, (*words[1:], "--"), strict=True):
        if word.startswith("--"):
            value = int(following) if following.isdigit() else following
            found[word.removeprefix("--")] = True if following.startswith("--") else value
    return found


def real_engines(model: Path, program: Path) -> Kind:
    """Two real vLLM replicas of the small model, on the processor."""
    service = {
        "model": str(model),
        "engine": {
            "name": "vllm",
            "executable": str(program),
            "args": _as_map(real.VLLM_ARGUMENTS),
            "env": dict(real.VLLM_ENVIRONMENT),
        },
        "traffic": {"peak": "5/s", "input_tokens": 32, "output_tokens": 16},
        "goals": {"e2e": "500ms"},
        "scale": {"min": 2, "max": 3, "hold": "5s"},
        "rollout": {"surge": 1, "drain_timeout": "20s"},
    }
    return Kind(
        name="real",
        services={"chat": service},
        # More than this machine has: the engines share what there is.
        devices=[{"cpu": {"cores": 8, "memory": "16GiB"}}],
        prometheus=True,
        rate=5.0,
        tokens=16,
        change={"max-num-batched-tokens": 1024},
        refused={"load-format": "nonsense"},
        refused_because="Load format `nonsense` is not supported",
        victims=1,
        start_s=90.0,
        long_tokens=600,
    )
