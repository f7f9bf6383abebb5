"""The files by which Prometheus finds replicas, gateways and monitors: the same on every target.

In: who is there, with the addresses that Prometheus reaches them at. Out: one file a job in the
stack's targets folder, replaced only when it changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from enova.effects.drivers.folder import folders, locked
from enova.effects.drivers.ground import Ground
from enova.effects.state.files import replace_file
from enova.stack.render import monitors, prometheus


def write(
    ground: Ground,
    *,
    gateways: Iterable[tuple[str, str]],
    programs: Iterable[tuple[str, prometheus.Target]],
) -> None:
    """Bring the files up to what is there; without a Prometheus there are none.

    ``gateways`` are ids with their endpoints, ``programs`` monitors by name.
    """
    directory = ground.targets
    if not directory.is_dir():
        return
    with locked(directory):
        found: dict[str, list[prometheus.Target]] = {
            prometheus.ENGINES: [
                prometheus.Target(meta.endpoint, meta.id, meta.address, meta.service)
                for folder in folders(ground.instances)
                if (meta := folder.meta()) is not None
            ],
            prometheus.GATEWAY: [
                prometheus.Target(endpoint, name, "gateway") for name, endpoint in gateways
            ],
            **{name: [] for name in monitors.PROGRAMS},
        }
        for name, target in programs:
            found[name].append(target)
        for job, targets in found.items():
            text = json.dumps(prometheus.targets(ground.stack, targets), indent=1)
            path = directory / f"{job}.json"
            if not path.exists() or path.read_text() != text:
                replace_file(path, text.encode())
