"""Digests of images, asked of their registries through the engine: its mirrors, its rights.

In: references by tag. Out: an answer for each within ``ASK_S`` and a little, whatever a registry
or a credential helper does. Nothing is pulled.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from threading import Thread

from enova.base.errors import EnovaError
from enova.effects.drivers.base import ImageAnswer
from enova.effects.drivers.docker_engine import Engine

ASK_S = 10
"""For one answer of the engine: registries mostly answer within one second."""

_TOGETHER_S = 2.0 * ASK_S
_LONGEST = 160
_WHERE = re.compile(r'(?:Get|Head) "?https?://(?P<host>[^/"]+)[^ ]*: ')


def digests(engine: Engine, references: Collection[str]) -> Mapping[str, ImageAnswer]:
    """What registries say of these images, all asked at once, by reference."""
    found = {one: ImageAnswer(None, f"no answer within {_TOGETHER_S:.0f} s") for one in references}

    def ask(reference: str) -> None:
        found[reference] = _ask(engine, reference)

    # Nobody waits for one that hangs, not even the end of the program.
    threads = [Thread(target=ask, args=(one,), daemon=True) for one in sorted(found)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + _TOGETHER_S
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return dict(sorted(found.items()))


def _ask(engine: Engine, reference: str) -> ImageAnswer:
    try:
        digest, refusal = engine.registry_digest(reference, timeout_s=ASK_S)
        if digest is not None:
            return ImageAnswer(digest)
        words = brief(refusal)
        if engine.is_from_registry(reference) is False:
            words = f"it was built or loaded on this machine; {words}"
    except EnovaError as error:
        words = brief(str(error))
    return ImageAnswer(None, words)


def brief(refusal: str) -> str:
    """A registry's refusal in a few words: ``ghcr.io: no such host``."""
    lines = [line.strip() for line in refusal.splitlines() if line.strip() not in ("", "errors:")]
    text = "; ".join(lines)
    where = _WHERE.search(text)
    if where is not None:
        text = f"{where['host']}: {text.rpartition(': ')[2]}"
    elif "timed out" in text.lower():
        text = f"no answer within {ASK_S} s"
    return text[:_LONGEST].rstrip(".") or "no reason given"
