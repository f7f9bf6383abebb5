"""The reconciler's page where the stack's Prometheus finds it, for as long as it reconciles.

In: a site, and the parts of its loop. Out: parts whose ticks stand on the page. Every tick looks
again whether there is a Prometheus to be told and where it reaches us from: it may come and go. A
clean end takes page and target away; after any other one Prometheus misses us, as it should.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from enova.base.errors import EnovaError
from enova.effects.state.files import replace_file
from enova.services.reconciler.loop import Parts, Report
from enova.services.reconciler.metrics import Page, serving, target
from enova.stack.render import prometheus
from enova.workflows.wiring import Site

LOOPBACK = "127.0.0.1"


@contextmanager
def announced(here: Site, parts: Parts, *, interval_s: float) -> Iterator[Parts]:
    """``parts`` that also show each tick on the page, which is served while inside."""
    page = Page(started_s=here.clock.now(), interval_s=interval_s)
    with _Door(here, page) as door:
        door.keep()

        def tell(report: Report) -> None:
            page.ticked(report, now=here.clock.now())
            if not report.ended:
                door.keep()
            parts.tell(report)

        yield replace(parts, tell=tell)


class _Door:
    """Where the page is served, and the target file that says so."""

    def __init__(self, here: Site, page: Page) -> None:
        self._here = here
        self._page = page
        self._file = (
            here.state.run_folder / "monitoring" / "targets" / f"{prometheus.RECONCILER}.json"
        )
        self._served = ExitStack()
        self._host = ""
        self._endpoint = ""

    def __enter__(self) -> _Door:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.unlink(missing_ok=True)
        self._served.close()

    def keep(self) -> None:
        """Serve where Prometheus can reach it, and tell it where, unless both are so already."""
        if not self._file.parent.is_dir():
            return  # there never was a Prometheus
        host = self._reachable_at()
        if host != self._host:
            self._served.close()
            self._endpoint = self._served.enter_context(serving(self._page, host=host))
            self._host = host
        stack = self._here.state.folder.name
        text = json.dumps(prometheus.targets(stack, [target(self._endpoint)]), indent=1)
        with suppress(FileNotFoundError):  # the stack is being destroyed
            if not self._file.exists() or self._file.read_text() != text:
                replace_file(self._file, text.encode())

    def _reachable_at(self) -> str:
        """Our address in the network that the gateway is in: Prometheus is in it too."""
        try:
            gateway = self._here.driver.gateway_metrics()
        except EnovaError:
            gateway = None
        if gateway is None:
            return self._host or LOOPBACK
        host, _, port = gateway.rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Sends nothing: it only has the way chosen.
            probe.connect((host, int(port)))
            return str(probe.getsockname()[0])
