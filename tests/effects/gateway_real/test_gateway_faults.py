"""What clients notice when replicas die, fail, hang or when the clients themselves leave."""

from __future__ import annotations

import json
import time

import httpx
import pytest
from gateway_world import OFTEN, Backend, Load, Start, Stream, lines, until

from enova.stack.render.envoy_settings import GatewayService

pytestmark = pytest.mark.real

RETRIES = GatewayService("chat", ("tiny",)).retries


def test_a_killed_replica_costs_no_request_that_is_not_streamed(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start()
    gateway.serve("chat", *(engine.member() for engine in backends))
    with Load(gateway, clients=16) as load:
        load.body = {"model": "tiny", "test": {"delay_s": 0.15}}
        load.more(60)
        for victim in backends[:2]:
            until(lambda v=victim: v.seen()["open"] != 0)  # type: ignore[misc]  # binds the variable
            victim.kill()
            until(lambda: sum(e.healthy for e in gateway.admin.endpoint_stats("chat")) < 3)
            load.more(60)
    assert set(load.results) == {"200"}
    assert len(load.results) >= 180
    assert gateway.counter("cluster.chat.upstream_rq_retry") > 0


def test_a_killed_replica_under_many_clients_of_two_replicas(
    start: Start, backends: list[Backend]
) -> None:
    """Half of everything fails at once: the retry budget must have room for it."""
    gateway = start()
    gateway.serve("chat", *(engine.member() for engine in backends[:2]))
    with Load(gateway, clients=64, keep_alive=True) as load:
        load.body = {"model": "tiny", "test": {"delay_s": 0.3}}
        load.more(64)
        backends[0].kill()
        load.more(128)
    assert set(load.results) == {"200"}


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_a_large_body_is_sent_again_to_another_replica(
    start: Start, backends: list[Backend], size: int
) -> None:
    gateway = start()
    backends[0].control(fail=503)
    backends[1].control(close=True)
    gateway.serve("chat", *(engine.member() for engine in backends))
    for _ in range(10):
        answer = gateway.post(prompt="x" * size)
        assert (answer.status_code, answer.json()["from"]) == (200, "chat-replica-2")
    assert backends[0].requests() + backends[1].requests() > 0
    seen = backends[2].seen()["bytes"]
    assert isinstance(seen, list)
    assert min(seen) > size


def test_a_stream_that_breaks_is_cut_and_never_sent_again(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start()
    gateway.serve("chat", *(engine.member() for engine in backends[:2]))
    streams = [Stream(gateway, chunks=10, gap_s=0.1) for _ in range(2)]
    (broken,) = [stream for stream in streams if "chat-replica-0" in stream.first]
    (whole,) = [stream for stream in streams if "chat-replica-1" in stream.first]
    backends[0].kill()
    with pytest.raises(httpx.RemoteProtocolError):
        broken.rest()
    broken.close()
    assert "chat-replica-1 9" in whole.rest()
    assert backends[1].requests() == 1
    until(lambda: len(lines(gateway)) == 2)
    flags = {line["instance"]: line["flags"] for line in lines(gateway)}
    assert flags == {"chat-replica-0.g1": "UPE", "chat-replica-1.g1": "-"}


def test_a_stream_passes_piece_by_piece(start: Start, backends: list[Backend]) -> None:
    gateway = start()
    gateway.serve("chat", backends[0].member())
    stream = Stream(gateway, chunks=2, gap_s=3600)
    assert stream.first == "data: chat-replica-0 0\n\n"
    stream.close()


def test_a_replica_that_says_it_is_ill_gets_no_requests(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start(OFTEN)
    gateway.serve("chat", *(engine.member() for engine in backends))
    before = time.monotonic()
    backends[0].control(health=503)
    until(lambda: not gateway.admin.endpoint_stats("chat")[0].healthy, deadline_s=5)
    backends[1].kill()
    until(lambda: not gateway.admin.endpoint_stats("chat")[1].healthy, deadline_s=5)
    print(f"both out of rotation after {time.monotonic() - before:.1f} s")
    assert {gateway.post().json()["from"] for _ in range(20)} == {"chat-replica-2"}
    backends[0].control(health=200)
    until(lambda: gateway.admin.endpoint_stats("chat")[0].healthy)


def test_failing_answers_with_good_health_eject_at_most_half(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start()
    gateway.serve("chat", *(engine.member() for engine in backends[:2]))
    backends[0].control(fail=500)
    answers = [gateway.post().status_code for _ in range(40)]
    assert answers.count(500) <= 6
    assert [e.healthy for e in gateway.admin.endpoint_stats("chat")] == [False, True]
    backends[1].control(fail=500)
    for _ in range(20):
        assert gateway.post().status_code == 500
    assert sum(e.healthy for e in gateway.admin.endpoint_stats("chat")) == 1


def test_when_all_are_dead_the_answer_is_prompt_and_in_words(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start(OFTEN)
    gateway.serve("chat", *(engine.member() for engine in backends))
    for engine in backends:
        engine.kill()
    before = time.perf_counter()
    answers = [gateway.post() for _ in range(3)]
    until(lambda: not any(e.healthy for e in gateway.admin.endpoint_stats("chat")))
    answers += [gateway.post() for _ in range(3)]
    print(f"6 refusals took {time.perf_counter() - before:.2f} s, the wait included")
    for answer in answers:
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        error = answer.json()["error"]
        assert error["code"] == "service_unavailable"
        assert "Try again" in error["message"]


def test_when_all_checks_fail_but_engines_answer_they_are_used(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start(OFTEN)
    gateway.serve("chat", *(engine.member() for engine in backends[:2]))
    for engine in backends[:2]:
        engine.control(health=503)
    until(lambda: not any(e.healthy for e in gateway.admin.endpoint_stats("chat")))
    assert {gateway.post().status_code for _ in range(10)} == {200}


def test_attempts_are_bounded_when_all_replicas_fail(start: Start, backends: list[Backend]) -> None:
    gateway = start()
    for engine in backends:
        engine.control(fail=503)
    gateway.serve("chat", *(engine.member() for engine in backends))
    for _ in range(3):
        answer = gateway.post()
        assert (answer.status_code, list(answer.json())) == (503, ["error"])
    assert sum(engine.requests() for engine in backends) <= 3 * (1 + RETRIES)


def test_a_client_that_leaves_frees_the_replica(start: Start, backends: list[Backend]) -> None:
    gateway = start()
    gateway.serve("chat", backends[0].member())
    stream = Stream(gateway, chunks=10, gap_s=3600)
    stream.close()
    until(lambda: backends[0].seen()["cancelled"] == 1)
    waiting = {"model": "tiny", "test": {"delay_s": 3600}}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(gateway.url + "/v1/completions", json=waiting, timeout=0.5)
    until(lambda: backends[0].seen()["cancelled"] == 2)
    assert backends[0].seen()["open"] == 0
    assert backends[0].requests() == 2
    assert gateway.admin.wait_quiet(deadline_s=10)


def test_too_many_requests_at_once_are_refused_at_once(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start(GatewayService("chat", ("tiny",), max_requests=2, max_pending=1))
    gateway.serve("chat", backends[0].member())
    streams = [Stream(gateway, chunks=10, gap_s=3600) for _ in range(2)]
    answer = gateway.post()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "UO" in answer.json()["error"]["message"]
    for stream in streams:
        stream.close()
    until(lambda: gateway.post().status_code == 200)


def test_silence_ends_at_the_idle_timeout_and_a_talking_stream_does_not(
    start: Start, backends: list[Backend]
) -> None:
    gateway = start(GatewayService("chat", ("tiny",), idle_timeout_s=0.6))
    gateway.serve("chat", backends[0].member())
    talking = Stream(gateway, chunks=10, gap_s=0.2)
    backends[0].control(hang=True)
    answer = gateway.post()
    assert (answer.status_code, answer.json()["error"]["code"]) in {
        (504, "timeout"),
        (408, "request_timeout"),
    }
    assert "[DONE]" in talking.rest()


def test_the_first_byte_is_not_waited_for_the_last(start: Start, backends: list[Backend]) -> None:
    """The log tells the first byte from the end."""
    gateway = start()
    gateway.serve("chat", backends[0].member())
    Stream(gateway, chunks=5, gap_s=0.1).rest()
    until(lambda: len(lines(gateway)) == 1)
    (line,) = lines(gateway)
    assert json.dumps(line["stream"]) == "true"
    assert int(str(line["duration_ms"])) >= 400
    assert int(str(line["first_byte_ms"])) < 400
