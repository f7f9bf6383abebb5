"""Who keeps a stack: noted by a reconciler at every look, so that others know whether one is there.

In: a holder and when it looked. Out: the same, to ``enova status`` and to whoever started it. A
note, not a right: two reconcilers take turns by the lease, and the last to look is the one noted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from enova.effects.state.files import replace_file
from enova.effects.state.lease import Holder
from enova.effects.state.store import StateDir

_MISSED = 3
_LEAST_S = 60.0
"""A look takes seconds, and more where an engine hardly answers."""


@dataclass(frozen=True)
class Keeper:
    """A reconciler and its last look, in seconds since 1970. ``problem``: what went wrong there."""

    holder: Holder
    at: float
    interval_s: float
    problem: str = ""

    def is_silent(self, now: float) -> bool:
        """Whether it has missed looks, so that it hangs or ended without a word."""
        return now - self.at > max(_LEAST_S, _MISSED * self.interval_s)


def write_keeper(state: StateDir, keeper: Keeper) -> None:
    """Note a look. Raises ActionFailed when the disk refuses."""
    data = {
        "at": keeper.at,
        "command": keeper.holder.command,
        "host": keeper.holder.host,
        "interval_s": keeper.interval_s,
        "pid": keeper.holder.pid,
        "problem": keeper.problem,
        "user": keeper.holder.user,
    }
    replace_file(state.keeper_file, (json.dumps(data, indent=1) + "\n").encode())


def read_keeper(state: StateDir) -> Keeper | None:
    """The reconciler that looked last; None when none did, or it ended in good order."""
    try:
        data = json.loads(state.keeper_file.read_bytes())
        holder = Holder(
            user=str(data["user"]),
            host=str(data["host"]),
            pid=int(data["pid"]),
            started="",
            command=str(data["command"]),
        )
        return Keeper(
            holder, float(data["at"]), float(data["interval_s"]), str(data.get("problem", ""))
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def leave(state: StateDir, holder: Holder) -> None:
    """Take the note away at a clean end, unless another one looked since."""
    known = read_keeper(state)
    if known is not None and (known.holder.host, known.holder.pid) == (holder.host, holder.pid):
        state.keeper_file.unlink(missing_ok=True)
