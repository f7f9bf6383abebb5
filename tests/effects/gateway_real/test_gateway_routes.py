"""The way of a request: by service, by model, with a key, within the limits."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
from gateway_world import LUA, Backend, Start, free_port, lines, until, write_keys

from enova.effects.access_log import read_new
from enova.effects.gateway import envoy_binary, validate, write_document
from enova.stack.render.envoy import render_bootstrap
from enova.stack.render.envoy_secrets import render_certificate
from enova.stack.render.envoy_settings import MIB, GatewayService, RateLimit, Tls

pytestmark = pytest.mark.real

CHAT = GatewayService("chat", ("tiny", "org/tiny"))
CODE = GatewayService("code", ("coder",))

QUOTED = r'{"messages": [{"role": "user", "content": "say \"model\": \"x\""}], "model": "tiny"}'
NESTED = '{"tools": [{"model": "nope", "deep": {"model": ["}", "\\\\"]}}], "model": "tiny"}'
BODIES = [
    ('{"model": "tiny"}', 200),
    ('  {"model" :\n "tiny" }  \r\n', 200),
    (QUOTED, 200),
    (NESTED, 200),
    (r'{"model": "org\/tiny"}', 200),
    (r'{"model": "t\u0069ny"}', 200),
    (r'{"mod\u0065l": "tiny"}', 200),
    ('{"model": "nope", "model": "tiny"}', 200),
    (r'{"prompt": "ends in \\", "model": "tiny"}', 200),
    (r'{"prompt": "\\\\\" , \"model\": 1", "model": "tiny"}', 200),
    ('{"stop": [], "n": 1, "x": -1.5e3, "y": null, "stream": false, "model": "tiny"}', 200),
    ('{"prompt": [1, 2, [3, {"a": 4}]], "model": "tiny"}', 200),
    ('{"prompt": "žluťoučký \U0001f40e", "model": "tiny"}', 200),
    ('{"model": "nope"}', 404),
    ('{"model": "TINY"}', 404),
    (r'{"model": "\ud83d\udc0e"}', 404),
    ('{"messages": [{"model": "tiny"}]}', 400),
    ('{"prompt": "\\"model\\": \\"tiny\\""}', 400),
    ('{"model": 5}', 400),
    ('{"model": null}', 400),
    ('{"model": ""}', 400),
    (r'{"model": "a\nb"}', 400),
    (r'{"model": "\ud83d"}', 400),
    (r'{"model": "\udc00"}', 400),
    (r'{"model": "\u0000tiny"}', 400),
    (r'{"m\u006fdel": "nope", "\u006d\u006f\u0064\u0065\u006c": "tiny"}', 200),
    (r'{"model": "\q"}', 400),
    ('{"model": "' + "m" * 257 + '"}', 400),
    ("{}", 400),
    ("", 400),
    ("[]", 400),
    ('"model"', 400),
    ('{"model": "tiny"', 400),
    ('{"model": "tiny', 400),
    ('{"model": "tiny"} extra', 400),
    ('{"model" "tiny"}', 400),
    ('{"model": }', 400),
    ('{"a": [1, "model": "tiny"}', 400),
    ("{model: tiny}", 400),
    ("\x00\x01", 400),
]


def test_the_model_of_the_body_chooses_the_service(start: Start, backends: list[Backend]) -> None:
    gateway = start(CHAT, CODE)
    gateway.serve("chat", backends[0].member())
    gateway.serve("code", backends[1].member())
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        for body, status in BODIES:
            answer = client.post("/v1/chat/completions", content=body.encode())
            assert answer.status_code == status, (body, answer.text)
            if status == 200:
                assert answer.json()["from"] == "chat-replica-0", body
            else:
                error = answer.json()["error"]
                assert error["type"] == "invalid_request_error", body
                assert error["message"], body
                assert answer.headers["content-type"] == "application/json"
                assert error["code"] == ("model_not_found" if status == 404 else None)
        assert "'nope' does not exist" in client.post("/v1/x", json={"model": "nope"}).text
        assert client.post("/v1/x", json={"model": "coder"}).json()["from"] == "chat-replica-1"
        assert client.post("/code/v1/x", json={}).json() == {
            "from": "chat-replica-1",
            "path": "/v1/x",
        }
        assert client.post("/code/v1/audio", content=b"no json").status_code == 200
        compressed = {"content-encoding": "gzip"}
        assert client.post("/v1/x", content=b"zz", headers=compressed).status_code == 415
        for path in ("/", "/metrics", "/nobody/v1/x", "/chat/health", "/v1", "/chatx/v1/x"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
        for path in (
            "/v1/load_lora_adapter",
            "/chat/v1/unload_lora_adapter",
            "/v1//load_lora_adapter",
        ):
            assert client.post(path, json={"model": "tiny"}).status_code == 404, path
        assert client.get("/health").json() == {"status": "ok"}


def test_the_models_of_all_services_are_listed_together(start: Start) -> None:
    many = tuple(f"a-long-name-of-an-adapter-{number}" for number in range(100))
    gateway = start(CHAT, GatewayService("code", ("coder", *many)))
    listed = httpx.get(gateway.url + "/v1/models")
    assert listed.headers["content-type"] == "application/json"
    owners = {entry["id"]: entry["owned_by"] for entry in listed.json()["data"]}
    assert owners == {"tiny": "chat", "org/tiny": "chat", **dict.fromkeys(("coder", *many), "code")}
    assert httpx.get(gateway.url + "/v1/models/org/tiny").json()["id"] == "org/tiny"
    assert httpx.get(gateway.url + "/v1/models/nope").status_code == 404


@pytest.mark.parametrize("size", [60_000, 1_000_000, 8 * MIB - 200])
def test_large_bodies_reach_the_engine_whole(
    start: Start, backends: list[Backend], size: int
) -> None:
    gateway = start(CHAT)
    gateway.serve("chat", backends[0].member())
    prompt = ('{"model": "x"} \\ ' * (size // 17 + 1))[:size]
    body = json.dumps({"prompt": prompt[: size - 4000 - size // 4], "model": "tiny"})
    assert gateway.post(prompt=prompt[: len(body) * 3 // 4]).status_code == 200
    pieces = (body[at : at + 65536].encode() for at in range(0, len(body), 65536))
    answer = httpx.post(gateway.url + "/v1/completions", content=pieces, timeout=60)
    assert answer.status_code == 200
    seen = backends[0].seen()["bytes"]
    assert isinstance(seen, list)
    assert seen[-1] == len(body)


def test_a_body_over_the_limit_is_refused_in_words(start: Start, backends: list[Backend]) -> None:
    gateway = start(CHAT, max_body_bytes=MIB)
    gateway.serve("chat", backends[0].member())
    too_much = b'{"model": "tiny", "prompt": "' + b"x" * 2 * MIB + b'"}'
    for path in ("/v1/completions", "/chat/v1/completions"):
        answer = httpx.post(gateway.url + path, content=too_much, timeout=60)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"
    assert backends[0].requests() == 0


def test_internal_headers_of_a_client_are_dropped(start: Start, backends: list[Backend]) -> None:
    gateway = start(CHAT, CODE)
    gateway.serve("chat", backends[0].member())
    gateway.serve("code", backends[1].member())
    spoofed = {
        "x-enova-model": "coder",
        "x-enova-prefix": "1",
        "x-enova-client": "root",
        "x-envoy-retry-on": "5xx",
        "x-envoy-max-retries": "50",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-mine": "kept",
    }
    body = {"model": "tiny", "test": {"delay_s": 0.1}}
    answer = httpx.post(gateway.url + "/v1/completions", json=body, headers=spoofed, timeout=30)
    assert answer.json()["from"] == "chat-replica-0"
    headers = backends[0].seen()["headers"]
    assert isinstance(headers, dict)
    assert {name for name in headers if name.startswith("x-enova-")} == set()
    assert not set(headers) & {"x-envoy-retry-on", "x-envoy-max-retries"}
    assert headers["x-mine"] == "kept"
    assert "x-envoy-upstream-service-time" not in answer.headers


def test_keys_are_asked_for_and_change_without_a_restart(
    start: Start, backends: list[Backend], folder: Path
) -> None:
    keys = folder / "keys" / "keys.json"
    write_keys(keys, alice="sk-a", bob="sk-b")
    assert keys.stat().st_mode & 0o777 == 0o600
    gateway = start(CHAT, keys_path=str(keys))
    gateway.serve("chat", backends[0].member())

    def status(*authorization: str) -> int:
        headers = [("authorization", value) for value in authorization]
        answer = httpx.post(
            gateway.url + "/v1/completions", json={"model": "tiny"}, headers=headers, timeout=30
        )
        if answer.status_code == 401:
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
        return answer.status_code

    assert status("Bearer sk-a") == 200
    headers = backends[0].seen()["headers"]
    assert isinstance(headers, dict)
    assert "authorization" not in headers
    for wrong in ((), ("Bearer sk-",), ("Bearer sk-ab",), ("sk-a",), ("Basic sk-a",)):
        assert status(*wrong) == 401, wrong
    assert httpx.get(gateway.url + "/v1/models").status_code == 401
    assert httpx.get(gateway.url + "/health").status_code == 200

    write_keys(keys, alice="sk-a", carol="sk-c")
    until(lambda: status("Bearer sk-c") == 200)
    until(lambda: status("Bearer sk-b") == 401)
    assert status("Bearer sk-a") == 200
    write_keys(keys)
    until(lambda: status("Bearer sk-a") == 401)

    until(lambda: any(line["client"] == "carol" for line in lines(gateway)))
    assert "sk-" not in gateway.log.read_text()
    for file in (folder / "config-0").iterdir():
        assert "sk-" not in file.read_text(), file


def test_each_key_has_its_own_rate_and_all_share_one(
    start: Start, backends: list[Backend], folder: Path
) -> None:
    keys = folder / "keys" / "keys.json"
    write_keys(keys, alice="sk-a", bob="sk-b", eve="sk-e")
    gateway = start(
        CHAT,
        keys_path=str(keys),
        key_rates=(("alice", RateLimit(0.01, 3)), ("bob", RateLimit(0.01, 5))),
        rate_limit=RateLimit(0.01, 14),
    )
    gateway.serve("chat", backends[0].member())

    def status(key: str) -> int:
        answer = httpx.post(
            gateway.url + "/v1/completions",
            json={"model": "tiny"},
            headers={"authorization": f"Bearer {key}"},
            timeout=30,
        )
        if answer.status_code == 429:
            assert answer.json()["error"]["code"] == "rate_limit_exceeded"
            assert answer.headers["retry-after"] == "1"
        return answer.status_code

    assert [status("sk-a") for _ in range(5)] == [200, 200, 200, 429, 429]
    assert [status("sk-b") for _ in range(6)] == [200, 200, 200, 200, 200, 429]
    # What a key's own rate refuses takes nothing from all: 6 of 14 are left.
    assert [status("sk-e") for _ in range(7)] == [200] * 6 + [429]
    assert status("wrong") == 401


def test_rates_per_key_hold_over_time(start: Start, backends: list[Backend], folder: Path) -> None:
    """Three keys ask as fast as they can: 5/s, 50/s, and one without a rate of its own."""
    keys = folder / "keys" / "keys.json"
    write_keys(keys, slow="sk-5", fast="sk-50", free="sk-free")
    gateway = start(
        CHAT,
        keys_path=str(keys),
        key_rates=(("slow", RateLimit(5, 5)), ("fast", RateLimit(50, 50))),
    )
    gateway.serve("chat", backends[0].member())
    passed: dict[str, list[float]] = {"sk-5": [], "sk-50": [], "sk-free": []}
    refused = dict.fromkeys(passed, 0)
    begin = time.monotonic()
    end = begin + 2.0

    def ask(key: str) -> None:
        headers = {"authorization": f"Bearer {key}"}
        with httpx.Client(headers=headers, timeout=30) as client:
            while time.monotonic() < end:
                answer = client.post(gateway.url + "/v1/completions", json={"model": "tiny"})
                if answer.status_code == 200:
                    passed[key].append(time.monotonic() - begin)
                else:
                    refused[key] += 1

    askers = [threading.Thread(target=ask, args=(key,)) for key in passed]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    counts = {key: len(times) for key, times in passed.items()}
    print(f"passed in {passed['sk-free'][-1]:.2f} s: {counts}, refused: {refused}")
    for key, rate in (("sk-5", 5), ("sk-50", 50)):
        # The burst, then the rate for as long as somebody asked; one more is a matter of rounding.
        most = rate + rate * (passed[key][-1] - passed[key][0])
        assert refused[key] > 0
        assert 0.9 * most <= counts[key] <= most + 1
    assert refused["sk-free"] == 0


def test_tls_from_1_2_on_with_a_certificate_that_may_be_replaced(
    start: Start, backends: list[Backend], folder: Path
) -> None:
    def make(days: str) -> None:
        for name in ("cert", "key"):
            (folder / "tls" / f"{name}.new").unlink(missing_ok=True)
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
        subprocess.run(
            [
                *command.split(),
                *("-days", days, "-subj", "/CN=localhost"),
                *("-keyout", folder / "tls" / "key.new", "-out", folder / "tls" / "cert.new"),
            ],
            check=True,
            capture_output=True,
        )
        (folder / "tls" / "key.new").rename(folder / "tls" / "key.pem")
        (folder / "tls" / "cert.new").rename(folder / "tls" / "cert.pem")

    def expiry() -> str:
        shown = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{gateway.settings.port}"],
            input=b"",
            capture_output=True,
            check=False,
        )
        return subprocess.run(
            ["openssl", "x509", "-noout", "-enddate"],
            input=shown.stdout,
            capture_output=True,
            check=False,
        ).stdout.decode()

    (folder / "tls").mkdir()
    make("2")
    tls = Tls(str(folder / "tls" / "cert.pem"), str(folder / "tls" / "key.pem"))
    write_document(folder / "certificate.json", render_certificate(tls))
    gateway = start(CHAT, tls=tls, tls_path=str(folder / "certificate.json"))
    gateway.serve("chat", backends[0].member())
    url = gateway.url.replace("http://", "https://")
    assert httpx.post(url + "/v1/x", json={"model": "tiny"}, verify=False).status_code == 200
    old = subprocess.run(
        ["openssl", "s_client", "-tls1_1", "-connect", f"127.0.0.1:{gateway.settings.port}"],
        input=b"",
        capture_output=True,
        check=False,
    )
    assert b"Cipher is (NONE)" in old.stdout
    before = expiry()
    assert "notAfter" in before
    make("9")
    until(lambda: expiry() not in ("", before))


def test_metrics_without_the_rest_of_the_admin_interface(start: Start) -> None:
    port = free_port()
    gateway = start(CHAT, metrics_port=port, labels=(("enova_stack", "demo"),))
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert 'envoy_cluster_upstream_rq_total{enova_stack="demo",envoy_cluster_name="chat"} 0' in text
    for path in ("/", "/stats", "/clusters", "/quitquitquit", "/metrics/../config_dump"):
        assert httpx.post(f"http://127.0.0.1:{port}{path}").status_code == 404
    assert Path(gateway.settings.admin_path or "").stat().st_mode & 0o777 == 0o600


def test_envoy_says_what_is_wrong_with_a_bootstrap(start: Start) -> None:
    gateway = start(CHAT)
    binary = envoy_binary()
    assert binary is not None
    bootstrap = render_bootstrap(gateway.settings, LUA)
    assert validate(bootstrap, binary) == []
    problems = validate({**bootstrap, "no_such_field": 1}, binary)
    assert any("no_such_field" in problem for problem in problems)
    problems = validate(render_bootstrap(gateway.settings, "this is no lua ("), binary)
    assert any("script load error" in problem for problem in problems)


def test_the_time_to_read_a_hostile_body_stays_small(start: Start, backends: list[Backend]) -> None:
    """Linear in the body, without copies: the time is printed, only the answers are asserted."""
    gateway = start(GatewayService("chat", ("tiny",), routing="prefix"))
    gateway.serve("chat", backends[0].member())
    role = '[{"role": "' + "\\n" * 3_000_000 + '"}]'
    for name, body, status in (
        ("brackets", '{"prompt": ' + "[" * 3_000_000 + "]" * 3_000_000 + ', "model": "nope"}', 404),
        ("quotes", '{"prompt": "' + '\\"' * 3_000_000 + '", "model": "nope"}', 404),
        ("backslashes", '{"prompt": "' + "\\\\" * 3_000_000 + '", "model": "nope"}', 404),
        ("tokens", '{"prompt": [' + "12345, " * 900_000 + '1], "model": "nope"}', 404),
        ("keys", "{" + '"mode": 1, ' * 600_000 + '"model": "nope"}', 404),
        ("a role of escapes", '{"messages": ' + role + ', "model": "nope"}', 404),
        ("a name of escapes", '{"model": "' + "\\n" * 3_000_000 + '"}', 400),
        ("a string without end", '{"model": "nope", "prompt": "' + "\\" * 6_000_000, 400),
    ):
        before = time.perf_counter()
        answer = httpx.post(gateway.url + "/v1/completions", content=body.encode(), timeout=60)
        print(f"{name}: {len(body)} bytes in {time.perf_counter() - before:.3f} s")
        assert answer.status_code == status, name


def test_a_name_that_is_no_text_is_nobody_and_spoils_no_log(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start(CHAT)
    for name in (b"\xff\xfe", b"caf\xe9", b"a{{b}}%REQ(authorization)%"):
        content = b'{"model": "' + name + b'"}'
        answer = httpx.post(gateway.url + "/v1/completions", content=content, timeout=30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    until(lambda: len(read_new(gateway.log)[0]) == 3)
    assert read_new(gateway.log)[0][2].model == "a{{b}}%REQ(authorization)%"
