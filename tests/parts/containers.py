"""The Docker engine and the images of `make images`, for tests.

The images are of this machine's programs under the names that users pull. A project is one
compose project; what belongs to it is found by compose's own label, so several test runs may
share an engine.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.parts import real

CONFIG = real.CACHE / "docker-config"
"""The docker client's configuration for tests: Compose is a plugin there, not in a home."""

Result = subprocess.CompletedProcess[str]

PROJECT_LABEL = "com.docker.compose.project"
ANSWER_TIMEOUT_S = 120


@dataclass(frozen=True)
class DockerEngine:
    """An engine that answers. `environment` is for processes that talk to it."""

    host: str
    environment: dict[str, str]

    def docker(self, *words: str | Path, cwd: Path | None = None, data: bytes | None = None) -> str:
        """Standard output of a docker command; raises AssertionError with its complaint.

        ``data`` is its standard input.
        """
        done = self.attempt(*words, cwd=cwd, data=data)
        assert done.returncode == 0, f"docker {words[0]}: {done.stderr or done.stdout}"
        return done.stdout

    def attempt(
        self, *words: str | Path, cwd: Path | None = None, data: bytes | None = None
    ) -> Result:
        done = subprocess.run(
            ["docker", *map(str, words)],
            cwd=cwd,
            env={**os.environ, "DOCKER_BUILDKIT": "0", **self.environment},
            input=data,
            capture_output=True,
            timeout=ANSWER_TIMEOUT_S,
        )
        output, complaint = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        return Result(done.args, done.returncode, output, complaint)

    def belongings(self, project: str) -> list[str]:
        """Containers, networks and volumes of a project, as `kind name`."""
        return [
            f"{kind} {name}"
            for kind, form in (
                ("container", "{{.Names}}"),
                ("network", "{{.Name}}"),
                ("volume", "{{.Name}}"),
            )
            for name in self.listed(kind, form, project)
        ]

    def listed(self, kind: str, form: str, project: str) -> list[str]:
        every = ["--all"] if kind == "container" else []
        wanted = ["--filter", f"label={PROJECT_LABEL}={project}", "--format", form]
        return sorted(self.docker(kind, "ls", *every, *wanted).split())

    def sweep(self, project: str) -> None:
        """Remove whatever of a project is left, so that a failed test leaves nothing."""
        for kind, removal in (
            ("container", ["rm", "--force", "--volumes"]),
            ("network", ["rm"]),
            ("volume", ["rm", "--force"]),
        ):
            form = "{{.ID}}" if kind != "volume" else "{{.Name}}"
            for name in self.listed(kind, form, project):
                self.attempt(kind, *removal, name)


def docker_engine() -> DockerEngine:
    """The engine of DOCKER_HOST, else this machine's; ends the test where none answers."""
    for part in ("docker", "docker compose"):
        real.part_binary(part)
    engine = DockerEngine(
        host=os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock",
        environment={"DOCKER_CONFIG": str(CONFIG)},
    )
    answer = engine.attempt("version", "--format", "{{.Server.Version}}")
    if answer.returncode != 0:
        real.unavailable("docker", f"nothing answers at {engine.host}: {answer.stderr.strip()}")
    return engine


def docker_image(engine: DockerEngine, name: str) -> str:
    """The reference of an image of `make images`: vllm, enova, envoy, prometheus, ..."""
    reference, reason = real.reported_image(name)
    if reference is None:
        real.unavailable(f"image {name}", reason)
    if engine.attempt("image", "inspect", reference).returncode != 0:
        real.unavailable(f"image {name}", f"{reference} is gone since `make images` was run")
    return reference
