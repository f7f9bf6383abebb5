"""``enova.lock``: the configurations that were chosen, committed beside the spec and reused.

In: the file's text. Out: a ``Lock``, from which ``answers`` gives a service's choice as plain data
while the demand it answered is unchanged, and ``images_of`` what registries said of the images.
Choices are opaque here: ``capacity`` gives them meaning. The text is JSON, sorted, one line a
value, so that equal locks are equal files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from enova.base.digest import plain
from enova.base.errors import SpecError
from enova.base.problems import Problem
from enova.base.source import Span

FILE_NAME = "enova.lock"
FORMAT = 2
READ_FORMATS = (1, FORMAT)
"""Format 1 knew no images: what it locked is still locked, images are asked for anew."""
DEFAULT_ENV = "default"
"""How the environment is called when ``--env`` was not given."""

_ABOUT = "Written by `enova lock`. Commit it; do not edit it."
_NEXT = "restore the file from version control, or delete it and run enova lock"
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")
_CONFLICT = ("<<<<<<<", "=======", ">>>>>>>")


@dataclass(frozen=True)
class LockedService:
    """One service's choice, the digest of the demand it answers, and which versions made it."""

    choice: Mapping[str, object]
    demand: str
    enova: str
    catalog: str


@dataclass(frozen=True)
class LockedImage:
    """What a registry said of an image when it was asked: its digest, or why there is none."""

    digest: str | None
    """``sha256:...``; None: the image goes by its tag."""
    asked: str
    """The day, UTC, ``2026-11-21``."""
    answer: str = ""
    """Why there is no digest."""


Key = tuple[str, str, str]
"""Stack, environment, service; or stack, environment, reference of an image by tag."""


@dataclass(frozen=True)
class Lock:
    """Everything locked in one file, for every stack and environment beside it."""

    entries: Mapping[Key, LockedService] = field(default_factory=dict)
    images: Mapping[Key, LockedImage] = field(default_factory=dict)

    def with_service(self, key: Key, entry: LockedService) -> Lock:
        """A lock that holds ``entry`` under ``key``."""
        return replace(self, entries={**self.entries, key: entry})

    def with_images(self, stack: str, env: str | None, images: Mapping[str, LockedImage]) -> Lock:
        """A lock that holds these images of a stack, by reference, and no others of it."""
        name = env or DEFAULT_ENV
        others = {key: entry for key, entry in self.images.items() if key[:2] != (stack, name)}
        mine = {(stack, name, reference): entry for reference, entry in images.items()}
        return replace(self, images=others | mine)

    def keep_services(self, stack: str, env: str | None, services: frozenset[str]) -> Lock:
        """A lock without the stack's services that are no longer in its spec."""
        name = env or DEFAULT_ENV
        kept = {
            key: entry
            for key, entry in self.entries.items()
            if key[:2] != (stack, name) or key[2] in services
        }
        return replace(self, entries=kept)


def answers(
    lock: Lock, stack: str, *, env: str | None, service: str, demand: str
) -> LockedService | None:
    """The locked choice of a service, None when it was never locked or answers another demand."""
    entry = lock.entries.get((stack, env or DEFAULT_ENV, service))
    return entry if entry is not None and entry.demand == demand else None


def images_of(lock: Lock, stack: str, *, env: str | None) -> dict[str, LockedImage]:
    """What is locked of a stack's images, by reference; of each only what was asked once."""
    name = env or DEFAULT_ENV
    return {key[2]: entry for key, entry in lock.images.items() if key[:2] == (stack, name)}


def serialise(lock: Lock) -> str:
    """The file's text: the same for equal locks, with a newline at the end."""
    document = {
        "about": _ABOUT,
        "format": FORMAT,
        "stacks": _nested(lock.entries),
        "images": _nested(lock.images),
    }
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _nested(entries: Mapping[Key, object]) -> dict[str, dict[str, dict[str, object]]]:
    """By stack, environment and name."""
    found: dict[str, dict[str, dict[str, object]]] = {}
    for (stack, env, name), entry in entries.items():
        found.setdefault(stack, {}).setdefault(env, {})[name] = plain(entry)
    return found


def parse_lock(text: str, *, file: str = FILE_NAME) -> Lock:
    """Read a lock file. Raises SpecError with the place of the damage; an empty text is damage."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(_CONFLICT):
            message = "the lock file holds a merge conflict"
            hint = "keep either side, then run enova lock"
            raise _damage(file, message, hint, line=number, line_text=line)
    try:
        document = json.loads(text, object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        shown = (text.splitlines() or [""])[error.lineno - 1 : error.lineno]
        raise _damage(
            file,
            f"the lock file is damaged: {error.msg}",
            line=error.lineno,
            column=error.colno,
            line_text=shown[0] if shown else None,
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damage(file, f"the lock file is damaged: {error}") from error
    if not isinstance(document, dict):
        raise _damage(file, "the lock file is damaged: it is not a map")
    written = document.get("format")
    if type(written) is not int or written not in READ_FORMATS:
        message = f"lock format {json.dumps(written)[:40]} is not read by this enova"
        raise _damage(
            file, message, f"this one reads up to format {FORMAT}: upgrade, or run enova lock"
        )
    entries = {
        key: _entry(file, entry, ".".join(key))
        for key, entry in _flat(file, document.get("stacks"), "stacks")
    }
    images = {
        key: _image(file, entry, f"images.{'.'.join(key)}")
        for key, entry in _flat(file, document.get("images") if written > 1 else {}, "images")
    }
    return Lock(entries, images)


def _flat(file: str, data: object, section: str) -> Iterator[tuple[Key, object]]:
    """What ``_nested`` nested. Raises SpecError."""
    for stack, envs in _map(file, data, section).items():
        for env, named in _map(file, envs, stack).items():
            for name, entry in _map(file, named, f"{stack}.{env}").items():
                yield (stack, env, name), entry


def _image(file: str, data: object, where: str) -> LockedImage:
    entry = _map(file, data, where)
    digest, asked, answer = (entry.get(key) for key in ("digest", "asked", "answer"))
    if not (digest is None or (isinstance(digest, str) and _DIGEST.match(digest))):
        raise _damage(file, f"the lock file is damaged: {where}.digest is not sha256:...")
    if not isinstance(asked, str) or not isinstance(answer, str):
        raise _damage(file, f'the lock file is damaged: {where} has no text "asked" or "answer"')
    return LockedImage(digest, asked, answer)


def _entry(file: str, data: object, where: str) -> LockedService:
    entry = _map(file, data, where)
    texts = {key: entry.get(key) for key in ("demand", "enova", "catalog")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise _damage(file, f'the lock file is damaged: {where} has no text "{key}"')
    choice = _map(file, entry.get("choice"), f"{where}.choice")
    return LockedService(choice=choice, **{key: str(value) for key, value in texts.items()})


def _map(file: str, data: object, where: str) -> dict[str, object]:
    if not isinstance(data, dict):
        raise _damage(file, f"the lock file is damaged: {where} is not a map")
    return data


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _damage(
    file: str,
    message: str,
    hint: str = _NEXT,
    *,
    line: int = 1,
    column: int = 1,
    line_text: str | None = None,
) -> SpecError:
    span = Span(file, line, column)
    return SpecError([Problem("E140", message, hint=hint, span=span, line_text=line_text)])
