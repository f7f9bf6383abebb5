"""What the gateway costs: requests/s and latency through Envoy as it is rendered, and without it.

The backend is a second Envoy that answers by itself, so that it is not what is measured. Needs
``wrk`` on PATH; everything listens on loopback.
Run: ``python benchmarks/gateway.py [--seconds 5] [--connections 32]``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from enova.effects.gateway import command_line, envoy_binary, write_files, write_members
from enova.effects.gateway_admin import GatewayAdmin
from enova.effects.packaged import template_text
from enova.stack.render.envoy import BOOTSTRAP, render_files
from enova.stack.render.envoy_members import Member
from enova.stack.render.envoy_settings import GatewayService, GatewaySettings

ANSWER = {"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": "Hello"}]}
BODIES = (("200 B", 200), ("4 kB", 4096), ("60 kB", 60_000))
_HCM = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
    "HttpConnectionManager"
)
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_BUFFER = "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer"


@dataclass(frozen=True)
class Result:
    """One run of wrk."""

    per_second: float
    p50: str
    p99: str
    failed: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def backend(port: int, admin: Path) -> dict[str, object]:
    """An Envoy that takes a whole request and answers it."""
    answer = {"status": 200, "body": {"inline_string": json.dumps(ANSWER)}}
    manager = {
        "@type": _HCM,
        "stat_prefix": "backend",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": answer}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "buffer",
                "typed_config": {"@type": _BUFFER, "max_request_bytes": 2**20},
            },
            {"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}},
        ],
    }
    name = "envoy.filters.network.http_connection_manager"
    listener = {
        "name": "backend",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": name, "typed_config": manager}]}],
    }
    return {
        "admin": {"address": {"pipe": {"path": str(admin)}}},
        "static_resources": {"listeners": [listener]},
    }


@contextmanager
def running(binary: Path, bootstrap: Path, admin: Path) -> Iterator[GatewayAdmin]:
    with subprocess.Popen(command_line(binary, bootstrap), stderr=subprocess.DEVNULL) as process:
        try:
            found = GatewayAdmin(admin)
            if not found.wait_ready(20):
                raise SystemExit("Envoy did not become ready")
            yield found
        finally:
            process.terminate()


def script(folder: Path, size: int) -> Path:
    """What wrk sends: a completion of about ``size`` bytes, valid JSON."""
    body = {"model": "tiny", "max_tokens": 16, "prompt": ""}
    body["prompt"] = "x" * max(0, size - len(json.dumps(body)))
    path = folder / f"post-{size}.lua"
    path.write_text(
        'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\n'
        f"wrk.body = [[{json.dumps(body)}]]\n"
    )
    return path


def measure(wrk: str, url: str, sends: Path, *, seconds: int, connections: int) -> Result:
    command = [wrk, "--latency", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(sends), url]
    text = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=seconds + 30
    ).stdout

    def one(pattern: str) -> str:
        match = re.search(pattern, text)
        return match[1] if match else "0"

    failed = int(one(r"Non-2xx or 3xx responses: (\d+)"))
    failed += sum(
        int(count)
        for line in re.findall(r"Socket errors: (.*)", text)
        for count in re.findall(r"\d+", line)
    )
    return Result(
        float(one(r"Requests/sec:\s+([\d.]+)")),
        one(r"\n +50%\s+(\S+)"),
        one(r"\n +99%\s+(\S+)"),
        failed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of each of the six runs")
    parser.add_argument("--connections", type=int, default=32)
    args = parser.parse_args()
    wrk, binary = shutil.which("wrk"), envoy_binary()
    if wrk is None or binary is None:
        missing = "wrk is not on PATH (apt-get install wrk)" if wrk is None else "no Envoy is here"
        print(f"not measured: {missing}")
        return
    seconds, connections = min(args.seconds, 60), min(args.connections, 256)
    with tempfile.TemporaryDirectory(prefix="egb-") as name:
        folder = Path(name)
        engine, port = free_port(), free_port()
        write_files(folder / "backend", {BOOTSTRAP: backend(engine, folder / "backend.sock")})
        members = [Member("chat-replica-0-a", "127.0.0.1", engine)]
        write_members(folder / "members", "chat", members)
        settings = GatewaySettings(
            stack="bench",
            services=(GatewayService("chat", ("tiny",)),),
            config_dir=str(folder / "gateway"),
            members_dir=str(folder / "members"),
            access_log_path=str(folder / "access.log"),
            port=port,
            admin_path=str(folder / "gateway.sock"),
        )
        write_files(folder / "gateway", render_files(settings, template_text("gateway.lua")))
        print(f"{connections} connections, {seconds} s each, one thread of wrk")
        print(f"{'body':>7} {'':10} {'req/s':>9} {'p50':>9} {'p99':>9} {'failed':>7}")
        with (
            running(binary, folder / "backend" / BOOTSTRAP, folder / "backend.sock"),
            running(binary, folder / "gateway" / BOOTSTRAP, folder / "gateway.sock") as gateway,
        ):
            if not gateway.wait_applied("chat", members, deadline_s=20, healthy=True):
                raise SystemExit("the gateway does not see its backend")
            for label, size in BODIES:
                sends = script(folder, size)
                rates = {}
                for way, where in (("direct", engine), ("gateway", port)):
                    url = f"http://127.0.0.1:{where}/v1/completions"
                    found = measure(wrk, url, sends, seconds=seconds, connections=connections)
                    rates[way] = found.per_second
                    print(
                        f"{label:>7} {way:10} {found.per_second:9.0f} {found.p50:>9} "
                        f"{found.p99:>9} {found.failed:7}"
                    )
                ratio = rates["gateway"] / rates["direct"] if rates["direct"] else 0.0
                print(f"{label:>7} {'ratio':10} {ratio:9.2f}")


if __name__ == "__main__":
    main()
