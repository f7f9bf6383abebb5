"""The root folder of an image, put together from this machine's files as one tar archive.

In: an `Image`, which names trees of files and their places. Out: a digest of what it is made of,
and the archive for `docker import`. The system's libraries that its programs load come along by
themselves; files are readable by every user, so the image runs as any.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sysconfig
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Tree:
    """A file or folder of this machine and its place in the image; `without`: left out."""

    source: Path
    target: str
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Image:
    """One image: its trees, small files and links, and its configuration as upstream sets it.

    `built` makes trees that exist only while the image is made, from `sources`.
    """

    reference: str
    trees: tuple[Tree, ...]
    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    sources: tuple[Tree, ...] = ()
    built: Callable[[], tuple[Tree, ...]] = tuple


def walk(tree: Tree) -> Iterator[tuple[Path, str]]:
    """Each file, link and folder of a tree with its place in the image, sorted."""
    if not tree.source.is_dir():
        yield tree.source.resolve(), tree.target
        return
    for top, folders, names in os.walk(tree.source):
        here = Path(top).relative_to(tree.source)
        kept = [n for n in sorted(folders) if not left_out(str(here / n), tree.without)]
        folders[:] = kept
        for name in [*kept, *sorted(names)]:
            if not left_out(str(here / name), tree.without):
                yield Path(top, name), f"{tree.target}/{here / name}"


def left_out(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)


def digest(image: Image) -> str:
    """What the image is made of: this recipe, and name, size and time of every file."""
    seen = hashlib.sha256(Path(__file__).read_bytes())
    seen.update(repr((image.files, image.links, image.folders, image.changes)).encode())
    for tree in (*image.trees, *image.sources):
        for source, target in walk(tree):
            if "__pycache__" not in target:
                state = source.lstat()
                seen.update(f"{target} {state.st_size} {state.st_mtime_ns}\n".encode())
    return seen.hexdigest()


def shared_libraries(files: Iterable[Path]) -> dict[str, Path]:
    """The system's libraries that these programs and modules load, by place in the image."""
    binaries = sorted({str(file) for file in files if is_elf(file)})
    libraries: dict[str, Path] = {}
    for start in range(0, len(binaries), 200):
        # ldd complains of static programs and goes on; what it finds not is no use here either.
        done = subprocess.run(
            ["ldd", *binaries[start : start + 200]], capture_output=True, text=True, check=False
        )
        for path in map(Path, re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", done.stdout, re.M)):
            inside_a_tree = any(f"/{name}/" in str(path) for name in ("site-packages", "dist"))
            if path.name.startswith("ld-linux"):
                libraries[f"{path.parent.name}/{path.name}"] = path
            elif not inside_a_tree:
                libraries[f"{multiarch()}/{path.name}"] = path
    return libraries


def is_elf(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    if ".so" not in path.name and not os.access(path, os.X_OK):
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


@cache
def multiarch() -> str:
    """Where the loader looks for libraries of this machine's kind."""
    return f"usr/lib/{sysconfig.get_config_var('MULTIARCH') or 'x86_64-linux-gnu'}"


def write_archive(image: Image, out: IO[bytes]) -> None:
    """The image's whole root folder as one archive, readable by every user."""
    entries = [entry for tree in (*image.trees, *image.built()) for entry in walk(tree)]
    libraries = shared_libraries(source for source, _ in entries)
    with tarfile.open(fileobj=out, mode="w|", bufsize=1 << 20) as archive:
        archive.copybufsize = 1 << 20  # type: ignore[attr-defined]
        made: set[str] = set()
        for folder in ("etc", "dev", "proc", "sys", "run", "sbin", "root", "var", *image.folders):
            add_folder(archive, folder, made)
        for folder in ("tmp", "var/tmp"):
            add_folder(archive, folder, made, mode=0o1777)
        for name in ("lib", "bin"):
            add_folder(archive, f"usr/{name}", made)
            add_link(archive, name, f"usr/{name}")
        programs = {target for _, target in entries}
        for target, to in sorted(image.links.items()):
            if target in programs:
                continue  # the program itself rather than the shell's idea of it
            add_folder(archive, str(Path(target).parent), made)
            add_link(archive, target, to)
        for target, text in sorted((BASE_FILES | image.files).items()):
            add_folder(archive, str(Path(target).parent), made)
            add_text(archive, target, text)
        for source, target in [
            *((path.resolve(), target) for target, path in sorted(libraries.items())),
            *entries,
        ]:
            add_folder(archive, str(Path(target).parent), made)
            add_file(archive, source, target, made)


BASE_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def add_folder(archive: tarfile.TarFile, name: str, made: set[str], mode: int = 0o755) -> None:
    if name in made or name in (".", ""):
        return
    add_folder(archive, str(Path(name).parent), made)
    made.add(name)
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    archive.addfile(entry)


def add_link(archive: tarfile.TarFile, name: str, to: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, to
    archive.addfile(entry)


def add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    """A small file; one that names its interpreter may be run."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(text.encode()), 0o755 if text.startswith("#!") else 0o644
    archive.addfile(entry, BytesIO(text.encode()))


def add_file(archive: tarfile.TarFile, source: Path, target: str, made: set[str]) -> None:
    if source.is_dir() and not source.is_symlink():
        add_folder(archive, target, made)
        return
    entry = archive.gettarinfo(source, target)
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode |= 0o555 if entry.mode & 0o111 else 0o444
    if entry.isreg():
        with source.open("rb") as file:
            archive.addfile(entry, file)
    else:
        archive.addfile(entry)
