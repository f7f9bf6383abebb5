"""Real emulator processes: what a client, a driver and a scraper meet on the socket."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

pytestmark = pytest.mark.real

# A step of 20 ms whatever the batch: fast enough to test, slow enough to catch in the act.
LAW = ("--step-law", '{"base": 0.02, "per_prefill_token": 0, "per_decode": 0}')
LAW += ("--step-per-context-token", "0")
ENDLESS = {"prompt": "go on", "max_tokens": 4000, "ignore_eos": True}


def running(emulator) -> float:
    return emulator.metric("vllm:num_requests_running")


def open_stream(emulator, body: dict[str, object]) -> socket.socket:
    """A streamed request on a plain socket, of which nothing has been read."""
    data = httpx.Request("POST", emulator.url, json=body | {"stream": True}).content
    client = socket.create_connection(("127.0.0.1", emulator.port), timeout=20)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: e\r\nContent-Length: {len(data)}\r\n\r\n"
    client.sendall(head.encode() + data)
    return client


def read_all(client: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            data += part
    return data


def read_until(client: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        part = client.recv(65536)
        assert part, f"the connection closed before {mark!r}: {data!r}"
        data += part
    return data


def test_says_that_it_is_an_emulator(start) -> None:
    emulator = start("--served-model-name", "served")
    assert "EMULATOR" in emulator.log
    version = httpx.get(f"{emulator.url}/version").json()
    assert version["emulator"] is True
    assert version["version"] == "0.32.0"
    assert emulator.metric("enova_emulator_info", model_name="served") == 1
    card = httpx.get(f"{emulator.url}/v1/models").json()["data"][0]
    assert (card["id"], card["root"]) == ("served", "tiny")


def test_streamed_and_whole_answers_agree_with_each_other_and_with_tokenize(start, events) -> None:
    emulator = start(*LAW)
    body = {"model": "tiny", "prompt": "Hello licensed world", "max_tokens": 6, "ignore_eos": True}
    whole = emulator.post("/v1/completions", body).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    streamed = emulator.post("/v1/completions", body | options)
    assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, last = events(streamed.text)
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert len(chunks) == 6
    assert text == whole["choices"][0]["text"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 5 + ["length"]
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 5, "total_tokens": 11, "completion_tokens": 6}
    assert last["usage"].items() <= whole["usage"].items()
    for words, tokens in ((body["prompt"], 5), (text, 6)):
        counted = emulator.post("/tokenize", {"prompt": words}).json()
        assert counted["count"] == tokens
        again = emulator.post("/detokenize", {"tokens": counted["tokens"]}).json()
        assert again["prompt"] == words


def test_chat_streams_the_role_first_and_stops_by_itself(start, events) -> None:
    emulator = start(*LAW, "--output-mean", "5", "--output-cv", "0")
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50, "stream": True}
    first, *chunks = events(emulator.post("/v1/chat/completions", body).text)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert len(chunks) == 5
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_tokens_arrive_no_faster_than_the_step_law_says(start) -> None:
    emulator = start(*LAW)
    began = time.monotonic()
    emulator.post("/v1/completions", {"prompt": "a", "max_tokens": 25, "ignore_eos": True})
    # A lower bound only: a busy machine may be slower, a correct schedule is never faster.
    assert time.monotonic() - began > 25 * 0.02 - 0.005


def test_errors_have_vllms_form_on_the_wire(start) -> None:
    emulator = start("--max-model-len", "64")
    unknown = emulator.post("/v1/completions", {"model": "nope", "prompt": "a"})
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "NotFoundError")
    long = emulator.post("/v1/completions", {"prompt": "a" * 1000})
    assert (long.status_code, long.json()["error"]["param"]) == (400, "input_tokens")
    broken = httpx.post(f"{emulator.url}/v1/chat/completions", content=b"{")
    assert (broken.status_code, broken.json()["error"]["type"]) == (400, "Bad Request")
    assert httpx.get(f"{emulator.url}/nope").json() == {"detail": "Not Found"}
    wrong = httpx.get(f"{emulator.url}/v1/completions")
    assert (wrong.status_code, wrong.json()) == (405, {"detail": "Method Not Allowed"})


def test_large_bodies_and_api_keys(start) -> None:
    emulator = start("--api-key", "sesame", "--max-model-len", "100K", *LAW)
    body = {"prompt": "x" * 300_000, "max_tokens": 1}
    assert emulator.post("/v1/completions", body).status_code == 401
    headers = {"Authorization": "Bearer sesame"}
    answer = emulator.post("/v1/completions", body, headers=headers)
    assert answer.json()["usage"]["prompt_tokens"] == 75_000
    assert httpx.get(f"{emulator.url}/health").status_code == 200


def test_metrics_agree_with_what_was_sent(start) -> None:
    emulator = start(*LAW)

    async def send() -> list[dict[str, int]]:
        async with httpx.AsyncClient(base_url=emulator.url, timeout=20) as client:
            replies = await asyncio.gather(
                *(
                    client.post(
                        "/v1/completions",
                        json={"prompt": "p" * 4 * n, "max_tokens": n, "ignore_eos": True},
                    )
                    for n in range(1, 11)
                )
            )
        return [reply.json()["usage"] for reply in replies]

    usage = asyncio.run(send())
    prompt = sum(one["prompt_tokens"] for one in usage)
    output = sum(one["completion_tokens"] for one in usage)
    assert (prompt, output) == (55, 55)
    metric = emulator.metric
    assert metric("vllm:prompt_tokens_total") == prompt
    assert metric("vllm:generation_tokens_total") == output
    assert metric("vllm:request_success_total", finished_reason="length") == 10
    assert metric("vllm:time_to_first_token_seconds_count") == 10
    assert metric("vllm:inter_token_latency_seconds_count") == output - 10
    assert metric("vllm:e2e_request_latency_seconds_bucket", le="+Inf") == 10
    assert metric("vllm:request_generation_tokens_sum") == output
    assert metric("vllm:iteration_tokens_total_sum") == prompt + output
    assert metric("vllm:num_requests_running") == 0
    assert metric("vllm:cache_config_info", num_gpu_blocks="25000", block_size="16") == 1
    assert metric("http_requests_total", handler="/v1/completions", status="2xx") == 10


def test_a_full_kv_cache_makes_requests_wait_and_preempts(start) -> None:
    limits = ("--kv-blocks", "8", "--max-model-len", "128", "--time-scale", "2")
    emulator = start(*LAW, *limits, "--no-enable-prefix-caching")
    body = {"prompt": "k" * 4 * 48, "max_tokens": 60, "ignore_eos": True}

    async def send() -> list[int]:
        async with httpx.AsyncClient(base_url=emulator.url, timeout=60) as client:
            sent = [asyncio.create_task(client.post("/v1/completions", json=body)) for _ in "1234"]
            deadline = time.monotonic() + 20
            while True:
                text = (await client.get("/metrics")).text
                if 'vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0' in text:
                    break
                assert time.monotonic() < deadline, "two requests were expected to wait"
            return [(await one).json()["usage"]["completion_tokens"] for one in sent]

    assert asyncio.run(send()) == [60] * 4
    assert emulator.metric("vllm:num_preemptions_total") >= 1
    assert emulator.metric("vllm:request_num_preemptions_sum") >= 1
    assert emulator.metric("vllm:kv_cache_usage_perc") == 0


def test_a_repeated_prompt_hits_the_prefix_cache(start) -> None:
    emulator = start(*LAW)
    for _ in range(2):
        emulator.post("/v1/completions", {"prompt": "s" * 4 * 100, "max_tokens": 1})
    assert emulator.metric("vllm:prefix_cache_queries_total") == 200
    assert emulator.metric("vllm:prefix_cache_hits_total") == 96


def test_a_client_that_leaves_is_aborted(start) -> None:
    emulator = start(*LAW)
    client = open_stream(emulator, ENDLESS)
    read_until(client, b'"text"')
    assert running(emulator) == 1
    client.close()
    emulator.until(lambda: running(emulator) == 0, "the abort of an abandoned stream")
    assert emulator.metric("vllm:request_success_total", finished_reason="abort") == 1
    assert emulator.metric("vllm:kv_cache_usage_perc") == 0


def test_a_full_queue_answers_503_and_counts_it(start) -> None:
    emulator = start(*LAW, "--max-num-queued-reqs", "1")
    with open_stream(emulator, ENDLESS) as client:
        read_until(client, b'"text"')
        refused = emulator.post("/v1/completions", {"prompt": "a"})
        assert refused.status_code == 503
        reason = {"reason": "max_num_queued_reqs"}
        assert emulator.metric("vllm:admission_rejections_total", **reason) == 1


# Faults


def test_hang_stops_tokens_while_health_answers_and_lifting_it_goes_on(start) -> None:
    emulator = start(*LAW)
    assert emulator.post("/emulator/faults", {"hang": True}).json()["hang"] is True
    body = {"prompt": "a", "max_tokens": 2, "ignore_eos": True}
    with open_stream(emulator, body) as client:
        emulator.until(lambda: running(emulator) == 1, "the request entering the engine")
        steps = emulator.metric("vllm:iteration_tokens_total_count")
        assert httpx.get(f"{emulator.url}/health").status_code == 200
        assert emulator.metric("vllm:iteration_tokens_total_count") == steps == 0
        httpx.delete(f"{emulator.url}/emulator/faults")
        read_until(client, b"[DONE]")


def test_unavailable_answers_503_until_it_is_lifted(start) -> None:
    emulator = start()
    emulator.post("/emulator/faults", {"unavailable": True})
    assert httpx.get(f"{emulator.url}/health").status_code == 503
    assert emulator.post("/v1/completions", {"prompt": "a"}).status_code == 503
    assert httpx.get(f"{emulator.url}/metrics").status_code == 200
    emulator.post("/emulator/faults", {"unavailable": False})
    assert httpx.get(f"{emulator.url}/health").status_code == 200


def test_slow_stretches_the_steps(start) -> None:
    emulator = start(*LAW, "--fault-slow", "10")
    began = time.monotonic()
    emulator.post("/v1/completions", {"prompt": "a", "max_tokens": 3, "ignore_eos": True})
    assert time.monotonic() - began > 3 * 0.2 - 0.005
    assert emulator.post("/emulator/faults", {"slow": -1}).status_code == 400


def test_crash_after_k_requests_and_at_once(start) -> None:
    later = start(*LAW, "--fault-crash-after", "2", "--fault-crash-code", "17")
    assert later.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).status_code == 200
    with pytest.raises(httpx.TransportError):
        later.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
    assert later.exit_code() == 17
    at_once = start()
    posted = at_once.post("/emulator/faults", {"crash_after": 0, "crash_code": 3})
    assert posted.status_code == 200
    assert at_once.exit_code() == 3


def test_a_slow_start_refuses_connections_until_it_is_ready(start) -> None:
    emulator = start("--start-delay", "0.7", wait=False)
    emulator.until(lambda: "EMULATOR" in emulator.log, "the banner")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{emulator.url}/health")
    emulator.until(emulator.ready, "the end of loading")


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--no-such-flag"], 2, "--no-such-flag"),
        (["--max-num-seqs", "minus"], 2, "--max-num-seqs"),
        (["--refuse-start", "unsupported quantization"], 1, "unsupported quantization"),
        (["--oom-at-start"], 1, "out of memory"),
        (["--kv-blocks", "2", "--max-model-len", "1024"], 1, "KV cache holds 32 tokens"),
    ],
)
def test_a_start_that_the_engine_refuses(start, arguments, code, named) -> None:
    emulator = start(*arguments, wait=False)
    assert emulator.exit_code() == code
    assert named in emulator.log


def test_a_taken_port_is_said(start) -> None:
    first = start()
    second = start("--port", str(first.port), wait=False)
    assert second.exit_code() == 1
    assert f"127.0.0.1:{first.port}" in second.log


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_without_a_timeout_cuts_open_requests_and_exits_0(start, number) -> None:
    emulator = start(*LAW)
    with open_stream(emulator, ENDLESS) as client:
        read_until(client, b'"text"')
        emulator.process.send_signal(number)
        assert emulator.exit_code() == 0
        rest = read_all(client)
        assert b"[DONE]" not in rest
        assert not rest.endswith(b"0\r\n\r\n"), "the stream must not look complete"
    assert "aborted 1 requests" in emulator.log


def test_with_a_timeout_open_requests_finish_and_new_ones_are_refused(start) -> None:
    emulator = start(*LAW, "--shutdown-timeout", "15")
    body = {"prompt": "a", "max_tokens": 60, "ignore_eos": True}
    with open_stream(emulator, body) as client:
        seen = read_until(client, b'"text"')
        emulator.process.terminate()
        emulator.until(lambda: "mode=drain" in emulator.log, "the drain")
        assert httpx.get(f"{emulator.url}/health").status_code == 200
        refused = emulator.post("/v1/completions", {"prompt": "b"})
        assert refused.status_code == 500
        assert "after shutdown" in refused.json()["error"]["message"]
        seen += read_all(client)
    assert seen.count(b'"text"') == 60
    assert b"data: [DONE]" in seen
    assert emulator.exit_code() == 0


def test_what_outlasts_the_timeout_is_aborted(start) -> None:
    emulator = start(*LAW, "--shutdown-timeout", "0.3")
    with open_stream(emulator, ENDLESS) as client:
        read_until(client, b'"text"')
        emulator.process.terminate()
        assert emulator.exit_code() == 0
    assert "aborted 1 requests" in emulator.log


def test_a_signal_while_loading_ends_it(start) -> None:
    emulator = start("--start-delay", "60", wait=False)
    emulator.until(lambda: "EMULATOR" in emulator.log, "the banner")
    emulator.process.terminate()
    assert emulator.exit_code() in (0, -signal.SIGTERM)


def test_the_start_imports_nothing_heavy() -> None:
    program = (
        "import sys, enova.services.emulator.server, enova.services.emulator.process\n"
        "heavy = {'numpy', 'scipy', 'pydantic', 'click', 'yaml', 'prometheus_client'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_command_passes_its_words_on(capfd: pytest.CaptureFixture[str]) -> None:
    from click.testing import CliRunner

    from enova.cli.commands.emulator import command

    result = CliRunner().invoke(command, ["tiny", "--no-such-flag", "--port", "1"])
    assert result.exit_code == 2
    assert "--no-such-flag" in result.output
