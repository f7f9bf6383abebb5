"""Reading a spec from disk or standard input, with its overlay: the first step of every verb.

In: a path as the user gave it and an environment name. Out: the loaded spec and where it lies.
Raises SpecError with every problem at once, Refused when the name fits several specs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enova.base.digest import digest
from enova.base.errors import Refused, SpecError
from enova.base.problems import Problem
from enova.spec.files import group_files, select_files
from enova.spec.load import LoadedSpec, decode, load, load_document
from enova.spec.model import Spec
from enova.spec.paths import absolute_paths

STDIN = "-"
FOLDER = "."


@dataclass(frozen=True)
class Source:
    """What the user asked to read: a file, a folder, or ``-`` with its text."""

    path: str = FOLDER
    env: str = ""
    stdin_text: str | None = None


@dataclass(frozen=True)
class Read:
    """A spec as read: its files in the order they were merged, and the folder they lie in.

    ``document`` is the merged plain data with absolute paths; ``spec`` was read from it.
    """

    loaded: LoadedSpec
    spec: Spec
    document: Mapping[str, object]
    files: tuple[str, ...]
    folder: Path
    env: str

    @property
    def digest(self) -> str:
        """Of the merged document: comments and layout do not count."""
        return digest(self.document)

    @property
    def from_stdin(self) -> bool:
        """True when nothing can be written beside the spec."""
        return self.files == (STDIN,)


def read(source: Source, environment: Mapping[str, str]) -> Read:
    """Read and validate the one spec ``source`` names."""
    groups = find(source)
    if len(groups) > 1:
        stacks = ", ".join(str(group[0]) for group in groups)
        raise Refused(f"{source.path} holds several specs: {stacks}. Name one of them")
    return _read_group(groups[0], source, environment)


def read_all(source: Source, environment: Mapping[str, str]) -> list[Read]:
    """Read and validate every spec ``source`` names: one a file, one a stack in a folder."""
    return [_read_group(group, source, environment) for group in find(source)]


def find(source: Source) -> list[tuple[str, ...]]:
    """Groups of files, one group a stack, the base first and its overlay after."""
    if source.path == STDIN:
        return [(STDIN,)]
    given, env = Path(source.path), source.env or None
    folder = given if given.is_dir() else given.parent
    if not given.exists():
        message = f"{given} does not exist"
        raise SpecError([Problem("E130", message, hint=f"enova init {given} writes a spec")])
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    if given.is_dir():
        groups = select_files(names, env)
    else:
        groups = group_files([given.name], names, env)
    return [tuple(str(folder / name) for name in group) for group in groups]


def _read_group(files: tuple[str, ...], source: Source, environment: Mapping[str, str]) -> Read:
    if files == (STDIN,):
        texts = [decode("<stdin>", (source.stdin_text or "").encode())]
        folder = Path.cwd()
    else:
        texts = [decode(name, _bytes(Path(name))) for name in files]
        folder = Path(files[0]).parent
    loaded = load(texts, environment=environment)
    document = absolute_paths(loaded.document, str(folder.resolve()))
    return Read(loaded, load_document(document), document, files, folder, source.env)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise SpecError([Problem("E130", message)]) from error
