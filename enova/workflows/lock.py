"""``enova lock``: resolve choices once and commit them, so that nothing else moves production."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from enova import __version__
from enova.base.digest import plain
from enova.base.errors import Refused
from enova.capacity.catalog.data import version as catalog_version
from enova.effects.state.files import replace_file
from enova.spec.lock import DEFAULT_ENV, LockedImage, LockedService, images_of, serialise
from enova.workflows.choosing import Chosen, choose, lock_path, read_lock
from enova.workflows.loading import Read, Source, read
from enova.workflows.pinning import Asking, changed_images, pin
from enova.workflows.wiring import Surroundings, site


@dataclass(frozen=True)
class Locked:
    """What the lock says now, and which services' choices are new."""

    path: str
    chosen: Chosen
    changed: tuple[str, ...]
    before: Mapping[str, Mapping[str, object]]
    """The choices the lock held for this stack and environment, by service."""
    images: Mapping[str, LockedImage] = field(default_factory=dict)
    """What the lock says of the images, by reference."""
    images_changed: tuple[str, ...] = ()
    images_before: Mapping[str, LockedImage] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def lock(source: Source, surroundings: Surroundings, *, upgrade: bool, check: bool) -> Locked:
    """Write the lock of a spec.

    ``upgrade`` sizes every service anew and asks for every image; without it, only for images of
    which the lock has no digest. ``check`` asks nobody, writes nothing and raises Refused when the
    lock is not current.
    """
    spec = read(source, surroundings.environment)
    path = lock_path(spec)
    if path is None:
        raise Refused("a spec from standard input has no lock file")
    here = site(surroundings, spec.spec.name, env=spec.env, pool=spec.spec.pool)
    chosen = choose(spec, here.driver.inventory(), upgrade=upgrade, locked=False)
    changed = changed_services(spec, chosen)
    asking: Asking = "nobody" if check else "all" if upgrade else "unpinned"
    monitors = here.driver.runs_monitors()
    pinned = pin(spec, here, chosen.choices, monitors=monitors, asking=asking)
    mine = (spec.spec.name, spec.env or DEFAULT_ENV)
    held = read_lock(spec)
    before = {key[2]: entry.choice for key, entry in held.entries.items() if key[:2] == mine}
    images_before = images_of(held, spec.spec.name, env=spec.env or None)
    images_changed = changed_images(spec, pinned.locked)
    if check and (changed or pinned.unknown or images_changed):
        names = dict.fromkeys([*changed, *pinned.unknown, *images_changed])
        raise Refused(f"{path} is not current for {', '.join(names)}. Run: enova lock")
    if not check:
        write_lock(spec, chosen, pinned.locked)
    return Locked(
        str(path),
        chosen,
        changed,
        before,
        images=pinned.locked,
        images_changed=images_changed,
        images_before=images_before,
        notes=pinned.notes,
    )


def changed_services(spec: Read, chosen: Chosen) -> tuple[str, ...]:
    """Services whose locked choice is not the one chosen now."""
    entries = read_lock(spec).entries
    return tuple(
        name
        for name, choice in sorted(chosen.choices.items())
        if (entry := entries.get((spec.spec.name, spec.env or DEFAULT_ENV, name))) is None
        or entry.demand != chosen.demands[name]
        or plain(entry.choice) != plain(choice)
    )


def write_lock(spec: Read, chosen: Chosen, images: Mapping[str, LockedImage]) -> None:
    """Write the choices and images of a spec beside it, unless they are there already."""
    path = lock_path(spec)
    changed = changed_services(spec, chosen) if path is not None else ()
    if path is None or not (changed or changed_images(spec, images)):
        return
    lock = read_lock(spec).with_images(spec.spec.name, spec.env or None, images)
    for name in changed:
        choice = plain(chosen.choices[name])
        if not isinstance(choice, dict):
            raise TypeError("a choice is a mapping")
        entry = LockedService(
            choice=choice,
            demand=chosen.demands[name],
            enova=__version__,
            catalog=catalog_version(),
        )
        lock = lock.with_service((spec.spec.name, spec.env or DEFAULT_ENV, name), entry)
    replace_file(path, serialise(lock).encode())
