"""``enova logs``: the output of a replica or component, by address or instance id."""

from __future__ import annotations

from collections.abc import Iterator

from enova.base.errors import Refused
from enova.stack.observed import State
from enova.workflows.wiring import Site


def logs(here: Site, address: str, *, tail: int, follow: bool) -> Iterator[str]:
    """Lines, oldest first. Raises Refused, listing what has logs, when the address has none."""
    observed = here.driver.observe()
    everything = [
        *((i.address, i.id, i.state) for i in observed.instances),
        *((c.address, c.id, c.state) for c in observed.components),
    ]
    found = [entry for entry in everything if address in entry[:2]]
    if not found:
        known = ", ".join(sorted({entry[0] for entry in everything})) or "nothing runs"
        raise Refused(f"{address} has no log. There is: {known}")
    found.sort(key=lambda entry: (entry[2] is State.EXITED, entry[1]))
    return here.driver.logs(found[0][1], tail=tail, follow=follow)
