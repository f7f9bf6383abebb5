"""Docker's own registry on loopback, for tests of what depends on one: Debian's package, one
process, its images in a folder of the test.

In: an engine. Out: names to push under, pushing, moving a tag, stopping and starting again at the
same port. The engine takes registries of 127.0.0.0/8 without TLS.
"""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.parts import real
from tests.parts.containers import DockerEngine

LOGIN = ("reader", "secret")
_HTPASSWD = "reader:$2b$04$zT1E59WthEzyANFVu3zhP.LnNRCsDd2BAI/e8f9fsSEF59jDA.JnO\n"
"""Of LOGIN; with the least rounds of bcrypt, as it guards nothing."""

_LISTENS = re.compile(r"listening on 127\.0\.0\.1:(\d+)")
_READY_S = 20.0


@dataclass
class Registry:
    """A registry that answers, until ``stop``."""

    folder: Path
    engine: DockerEngine
    login: bool = False
    port: int = 0
    pushed: list[str] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Serve, at the port it had before if it had one."""
        binary = real.part_binary("docker-registry")
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "config.json"
        config.write_text(json.dumps(self._config()))
        log = self.folder / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [binary, "serve", config],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + _READY_S
        while (found := _LISTENS.search(log.read_text(errors="replace"))) is None:
            assert self._process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < end, "the registry does not listen"
            time.sleep(0.02)
        self.port = int(found[1])

    def stop(self) -> None:
        """Stop serving. What was pushed stays in the folder."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def end(self) -> None:
        """Stop, and take the names of its images out of the engine."""
        self.stop()
        for name in self.pushed:
            self.engine.attempt("image", "rm", "--force", name)

    def name(self, image: str) -> str:
        """The reference under which an image is pushed: ``127.0.0.1:PORT/tiny:1``."""
        return f"127.0.0.1:{self.port}/{image}"

    def push(self, image: str, *, base: str | None, content: str) -> str:
        """Make an image of one label on top of another image, push it, return its digest.

        ``base`` None: nothing but one small file below it. Pushing again moves the tag.
        """
        files = {
            "Dockerfile": f"FROM {base or 'scratch'}\n"
            + ("" if base else "COPY content /\n")
            + f'LABEL content="{content}"\n',
            "content": content,
        }
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for path, text in files.items():
                entry = tarfile.TarInfo(path)
                entry.size = len(text.encode())
                tar.addfile(entry, io.BytesIO(text.encode()))
        name = self.name(image)
        self.engine.docker("build", "--quiet", "--tag", name, "-", data=archive.getvalue())
        self.engine.docker("push", "--quiet", name)
        listed = self.engine.docker("image", "inspect", "--format", "{{json .RepoDigests}}", name)
        here = name.rpartition(":")[0]
        (digest,) = [d.partition("@")[2] for d in json.loads(listed) if d.startswith(f"{here}@")]
        self.pushed += [name, f"{here}@{digest}"]
        return str(digest)

    def credentials(self) -> dict[str, object]:
        """The content of a docker client's ``config.json`` that is logged in here."""
        auth = base64.b64encode(":".join(LOGIN).encode()).decode()
        return {"auths": {f"127.0.0.1:{self.port}": {"auth": auth}}}

    def _config(self) -> dict[str, object]:
        config: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "info"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "images")}},
            "http": {"addr": f"127.0.0.1:{self.port}", "secret": "of-this-test"},
        }
        if self.login:
            users = self.folder / "htpasswd"
            users.write_text(_HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(users)}}
        return config
