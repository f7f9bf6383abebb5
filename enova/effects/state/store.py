"""The state folder of one stack in one environment: where things lie, the record and its history.

In and out: ``Record`` values. On disk: JSON with a schema version, a checksum and the fencing
number of the writer, replaced atomically, readable by the owner only.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from enova.base.address import NAME
from enova.base.digest import digest, plain
from enova.base.errors import Refused
from enova.effects.state.files import (
    FILES,
    Files,
    private_folder,
    remove_leftovers,
    replace_file,
)
from enova.stack.record import SCHEMA, Record

KEPT_APPLIES = 50
"""So many successful applies can be rolled back to."""


class Fence(Protocol):
    """The right to write, as a ``state.lease.Held`` has it."""

    @property
    def token(self) -> int:
        """The fencing number: grows with every holder."""
        ...

    def guard(self) -> AbstractContextManager[None]:
        """While inside, nobody else can take the right. Raises Refused when it is lost."""
        ...


@dataclass(frozen=True)
class Applied:
    """One successful apply of the history. ``at`` is seconds since 1970 (UTC)."""

    at: float
    record: Record

    @property
    def serial(self) -> int:
        """What ``enova rollback`` calls it by."""
        return self.record.serial


def state_root(environment: Mapping[str, str]) -> Path:
    """The folder of all stacks: ENOVA_STATE_DIR, else XDG_STATE_HOME/enova, else below HOME.

    Raises Refused when none of the three is set.
    """
    if chosen := environment.get("ENOVA_STATE_DIR"):
        return Path(chosen).expanduser().absolute()
    xdg = environment.get("XDG_STATE_HOME", "")
    if xdg and Path(xdg).is_absolute():
        return Path(xdg) / "enova"
    if home := environment.get("HOME"):
        return Path(home) / ".local" / "state" / "enova"
    raise Refused("No place to keep state: set ENOVA_STATE_DIR (or HOME).")


def list_stacks(root: Path) -> tuple[tuple[str, str], ...]:
    """``(stack, env)`` of every stack that has a record below ``root``, sorted."""
    found = []
    for path in root.glob("*/record.json"):
        stack, _, env = path.parent.name.partition(".")
        if NAME.match(stack) and (not env or NAME.match(env)):
            found.append((stack, env))
    return tuple(sorted(found))


class StateDir:
    """The paths of one stack, and reading and writing what is said to be applied.

    Writing needs a ``Fence``: a process that lost its lease while it was paused is refused.
    """

    def __init__(self, root: Path, stack: str, env: str = "", *, files: Files = FILES) -> None:
        for name in (stack, env) if env else (stack,):
            if not NAME.match(name):
                raise Refused(
                    f'"{name}" cannot name a stack or environment: lower-case letters, digits '
                    "and dashes, beginning with a letter."
                )
        self.root = root
        self.stack = stack
        self.env = env
        self.folder = root / (f"{stack}.{env}" if env else stack)
        self._files = files

    @property
    def record_file(self) -> Path:
        """What was last applied."""
        return self.folder / "record.json"

    @property
    def history_folder(self) -> Path:
        """One file a successful apply."""
        return self.folder / "history"

    @property
    def journal_file(self) -> Path:
        """What happened, line by line."""
        return self.folder / "journal.jsonl"

    @property
    def memory_file(self) -> Path:
        """What the reconciler remembers between ticks."""
        return self.folder / "memory.json"

    @property
    def keeper_file(self) -> Path:
        """Who reconciles, as of its last look (``state.keeper``)."""
        return self.folder / "reconciler.json"

    @property
    def run_folder(self) -> Path:
        """What belongs to running processes; the process driver's own."""
        return self.folder / "run"

    def prepare(self) -> StateDir:
        """Create the folder, private to the user. Raises Refused when it is somebody else's."""
        private_folder(self.root)
        private_folder(self.folder)
        remove_leftovers(self.folder)
        return self

    def read(self) -> Record:
        """The record; an empty one of serial 0 before the first apply. Raises Refused."""
        data = _read_sealed(self.record_file, self._repair_hint())
        if data is None:
            return Record(stack=self.stack, env=self.env)
        return _record(data, self.record_file, self._repair_hint())

    def token_written(self) -> int:
        """The fencing number of the last writer of the record, 0 when there is none."""
        data = _read_sealed(self.record_file, self._repair_hint())
        token = data.get("token") if data else 0
        return token if isinstance(token, int) else 0

    def write(self, record: Record, fence: Fence) -> None:
        """Replace the record.

        Raises Refused when the lease is lost or the record on disk is newer, ActionFailed when
        the disk refuses; the former record is then untouched.
        """
        self._require_own(record)

        def not_older() -> None:
            written = self.read()
            if written.serial > record.serial:
                raise Refused(
                    f"The record of {self.stack} moved to serial {written.serial} while this "
                    f"command worked on serial {record.serial}. Plan again."
                )

        replace_file(
            self.record_file,
            _sealed({"record": plain(record), "token": fence.token}),
            files=self._files,
            while_holding=fence.guard(),
            confirm=not_older,
        )

    def keep(self, record: Record, fence: Fence, *, at: float) -> None:
        """Add a successful apply to the history and drop the oldest beyond ``KEPT_APPLIES``.

        Call it before ``write``: a crash in between leaves an entry too many, never one too few.
        """
        self._require_own(record)
        private_folder(self.history_folder)
        remove_leftovers(self.history_folder)
        replace_file(
            self._history_file(record.serial),
            _sealed({"record": plain(record), "token": fence.token, "at": at}),
            files=self._files,
            while_holding=fence.guard(),
        )
        for serial in self.applies()[KEPT_APPLIES:]:
            self._files.remove(self._history_file(serial))

    def applies(self) -> tuple[int, ...]:
        """Serials in the history, newest first."""
        names = (path.stem for path in self.history_folder.glob("*.json"))
        return tuple(sorted((int(name) for name in names if name.isdigit()), reverse=True))

    def read_apply(self, serial: int) -> Applied:
        """One successful apply. Raises Refused when it is not there or damaged."""
        path = self._history_file(serial)
        hint = f"Another one can be chosen: {self._known_applies()}."
        data = _read_sealed(path, hint)
        if data is None:
            raise Refused(f"{self.stack} has no apply {serial} in its history. {hint}")
        at = data.get("at")
        if isinstance(at, bool) or not isinstance(at, (int, float)):
            raise Refused(f'{path} is damaged ("at" is missing). {hint}')
        return Applied(at=float(at), record=_record(data, path, hint))

    def read_memory(self) -> Mapping[str, object] | None:
        """What the reconciler left, None when it left nothing. Raises Refused when damaged."""
        hint = "Remove it: back-off and holds then begin anew."
        data = _read_sealed(self.memory_file, hint)
        if data is None:
            return None
        memory = data.get("memory")
        if not isinstance(memory, dict):
            raise Refused(f'{self.memory_file} is damaged ("memory" is missing). {hint}')
        return memory

    def write_memory(self, memory: Mapping[str, object]) -> None:
        """Keep what the reconciler remembers. Raises ActionFailed when the disk refuses."""
        replace_file(self.memory_file, _sealed({"memory": plain(memory)}), files=self._files)

    def forget(self, fence: Fence) -> None:
        """Remove record, history and memory: the stack is destroyed.

        The journal stays, the driver removes its own ``run``, ``Lease.clear`` the lease. Raises
        Refused when the lease is lost.
        """
        with fence.guard():
            self._files.remove(self.record_file)
            self._files.remove(self.memory_file)
            self._files.remove(self.keeper_file)
            if self.history_folder.exists():
                shutil.rmtree(self.history_folder)
            remove_leftovers(self.folder)

    def _history_file(self, serial: int) -> Path:
        return self.history_folder / f"{serial}.json"

    def _known_applies(self) -> str:
        return ", ".join(str(serial) for serial in self.applies()) or "there is none"

    def _repair_hint(self) -> str:
        serials = self.applies()
        if serials:
            return (
                f"The newest whole copy is {self._history_file(serials[0])}: "
                f"copy it over {self.record_file}, then run `enova plan`."
            )
        return f"Move {self.record_file} away and run `enova plan`: it finds what runs by itself."

    def _require_own(self, record: Record) -> None:
        if (record.stack, record.env) != (self.stack, self.env):
            raise ValueError(f"the record of {record.stack} does not belong into {self.folder}")


def _sealed(content: Mapping[str, object]) -> bytes:
    body = {"schema": SCHEMA, **content}
    return (json.dumps({**body, "sum": digest(body)}, indent=1, sort_keys=True) + "\n").encode()


def _read_sealed(path: Path, hint: str) -> Mapping[str, object] | None:
    """The content of a file written by ``_sealed``, None when there is no file."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise Refused(f"{path} is damaged ({error}). {hint}") from error
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
        raise Refused(f"{path} is damaged (it names no schema version). {hint}")
    schema = data["schema"]
    if schema > SCHEMA:
        raise Refused(
            f"{path} was written by a newer enova (schema {schema}, this one knows {SCHEMA}). "
            "Upgrade enova."
        )
    seal = data.pop("sum", None)
    if seal != digest(data):
        raise Refused(f"{path} is damaged (its checksum does not match). {hint}")
    return data


def _record(data: Mapping[str, object], path: Path, hint: str) -> Record:
    try:
        return record_from_plain(data.get("record"))
    except ValueError as error:
        raise Refused(f"{path} is damaged ({error}). {hint}") from error


def record_from_plain(data: object) -> Record:
    """The record whose ``base.digest.plain`` this is. Raises ValueError with a sentence."""
    if not isinstance(data, dict):
        raise ValueError("a record is a mapping")
    unknown = sorted(set(data) - set(Record.__dataclass_fields__))
    if unknown:
        raise ValueError(f"unknown in a record: {', '.join(unknown)}")
    document = data.get("document")
    return Record(
        stack=_text(data, "stack"),
        env=_text(data, "env"),
        serial=_whole(data, "serial"),
        document=None if document is None else _mapping(data, "document"),
        choices={
            name: _mapping(_mapping(data, "choices"), name) for name in _mapping(data, "choices")
        },
        # Records of before they were kept have none.
        images=_text_map(data, "images") if "images" in data else {},
        counts={name: _whole(_mapping(data, "counts"), name) for name in _mapping(data, "counts")},
        protected=_texts(data, "protected"),
        # Records of before it was known have it not.
        monitors_stopped="monitors_stopped" in data and _truth(data, "monitors_stopped"),
        applying=_truth(data, "applying"),
        schema=_whole(data, "schema"),
    )


def _text(data: Mapping[str, object], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key} must be text")
    return value


def _text_map(data: Mapping[str, object], key: str) -> Mapping[str, str]:
    values = _mapping(data, key)
    return {name: _text(values, name) for name in values}


def _texts(data: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = data.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key} must be a list of texts")
    return tuple(value)


def _whole(data: Mapping[str, object], key: str) -> int:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{key} must be a whole number")
    return value


def _truth(data: Mapping[str, object], key: str) -> bool:
    value = data.get(key)
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false")
    return value


def _mapping(data: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = data.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be a mapping")
    return value
