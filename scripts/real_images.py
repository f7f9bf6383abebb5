"""Bring Docker and the images that the tests use, as far as this machine can have them.

Run by `make images`, after `make parts`. Asks for a Docker engine, links Compose as a plugin
below `.cache/docker-config`, and makes self-contained images of this machine's own programs under
the names that the catalog has users pull: no registry is asked. Writes into
`.cache/real-parts.json` what is here or the reason why it is missing. An image carries a digest of
what it was made of, so the second run makes nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from image_archive import Image, digest, write_archive
from image_recipes import IMAGES, PATH, compose_plugin, node_exporter_image
from real_parts import CACHE, Missing, Part, report, run, say

DOCKER_CONFIG = CACHE / "docker-config"
RECIPE_LABEL = "enova.test.recipe"
IMPORT_TIMEOUT_S = 600


# --- an image in the engine -------------------------------------------------------------------


def import_image(image: Image, recipe: str) -> None:
    """Make the image in the engine, under its name; what it replaces goes unless it is in use."""
    words = ["docker", "import"]
    for change in (f"LABEL {RECIPE_LABEL}={recipe}", f"ENV PATH={PATH}", *image.changes):
        words += ["--change", change]
    with (
        tempfile.TemporaryFile() as complaint,
        subprocess.Popen(
            [*words, "-", image.reference],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=complaint,
        ) as importing,
    ):
        assert importing.stdin is not None
        # An engine that gives up closes the pipe; its own words say why.
        with suppress(BrokenPipeError):
            write_archive(image, importing.stdin)
            importing.stdin.close()
        status = importing.wait(timeout=IMPORT_TIMEOUT_S)
        complaint.seek(0)
        if status != 0:
            raise Missing(f"docker import failed: {complaint.read().decode().strip()[-300:]}")
    with suppress(Missing):  # somebody else prunes at this moment
        run(["docker", "image", "prune", "--force", "--filter", f"label={RECIPE_LABEL}"])


def image_recipe(reference: str) -> str | None:
    """The digest that an image of ours carries; None where there is none, or another's."""
    label = f'{{{{index .Config.Labels "{RECIPE_LABEL}"}}}}'
    try:
        return run(["docker", "image", "inspect", "-f", label, reference]).strip()
    except Missing:
        return None


def bring_image(part: str, describe: Callable[[], Image]) -> dict[str, Part]:
    require_engine()
    image = describe()
    recipe = digest(image)
    if image_recipe(image.reference) != recipe:
        say(f"making the image {image.reference}")
        import_image(image, recipe)
    return {part: Part(image.reference, f"of this machine, {recipe[:12]}")}


# --- the engine ------------------------------------------------------------------------------


def require_engine() -> str:
    """The engine's version; raises Missing where there is no client or no engine answers."""
    if shutil.which("docker") is None:
        raise Missing("there is no `docker` on PATH (Debian: docker.io)")
    return run(["docker", "version", "--format", "{{.Server.Version}}"], timeout=30).strip()


def bring_engine() -> dict[str, Part]:
    version = require_engine()
    driver = run(["docker", "info", "--format", "{{.Driver}}"]).strip()
    return {"docker": Part(shutil.which("docker"), f"{version}, {driver}")}


def bring_compose() -> dict[str, Part]:
    """The plugin, linked where the tests' docker client looks: not in the user's home."""
    require_engine()
    link = DOCKER_CONFIG / "cli-plugins" / "docker-compose"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(compose_plugin())
    version = run(["docker", "compose", "version", "--short"]).strip()
    return {"docker compose": Part(str(link), version)}


def bring_devices() -> dict[str, Part]:
    """GPU reservations: the engine takes them when it was started with a hook for them."""
    require_engine()
    image = node_exporter_image()
    if image_recipe(image.reference) is None:
        raise Missing(f"there is no image {image.reference} to try it with")
    words = ["--gpus", '"device=0,1"', "--entrypoint", "/bin/sh", "--network", "none"]
    try:
        told = run(["docker", "run", "--rm", *words, image.reference, "-c", "env"])
    except Missing as error:
        raise Missing(f"the engine takes no device reservations: {error}") from error
    if "NVIDIA_VISIBLE_DEVICES=0,1" not in told:
        raise Missing("the engine does not tell a container its devices")
    return {"docker devices": Part(shutil.which("docker"), "device reservations")}


# --- all of them -----------------------------------------------------------------------------


def attempt(names: str, bring: Callable[[], dict[str, Part]]) -> dict[str, Part]:
    try:
        return bring()
    except Missing as missing:
        return {names: Part(None, None, str(missing))}


def main() -> int:
    CACHE.mkdir(exist_ok=True)
    os.environ["DOCKER_CONFIG"] = str(DOCKER_CONFIG)
    with (CACHE / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        parts = attempt("docker", bring_engine) | attempt("docker compose", bring_compose)
        for name, describe in IMAGES.items():
            parts |= attempt(f"image {name}", partial(bring_image, f"image {name}", describe))
        parts |= attempt("docker devices", bring_devices)
        report(parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
