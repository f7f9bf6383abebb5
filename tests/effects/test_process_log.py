"""Reading output: the line that explains, the phases, the end over several files."""

from __future__ import annotations

from pathlib import Path

import pytest

from enova.effects.drivers import log_words, process_log

ARGPARSE = """
usage: vllm serve [model_tag] [options]
vllm serve: error: argument --max-num-seqs: invalid int value: 'many'
"""

CONFIG = """
(APIServer pid=3127) INFO 11-21 02:41:10 [api_server.py:1021] vLLM API server version 0.32.0
(APIServer pid=3127) Traceback (most recent call last):
(APIServer pid=3127)   File "/venv/bin/vllm", line 8, in <module>
(APIServer pid=3127)     sys.exit(main())
(APIServer pid=3127) pydantic_core.ValidationError: 1 validation error for ModelConfig
(APIServer pid=3127)   Value error, User-specified max_model_len (99999) is greater than 2048
(APIServer pid=3127)     For further information visit https://errors.pydantic.dev/2.12/v/value_error
"""

ENGINE_CORE = """
(EngineCore pid=52) ERROR 11-21 02:41:20 [core.py:1431] Traceback (most recent call last):
(EngineCore pid=52) ERROR 11-21 02:41:20 [core.py:1431] ValueError: To serve one request 2 GiB
(EngineCore pid=52) ERROR 11-21 02:41:20 [core.py:1431] of KV cache is needed
(APIServer pid=41) Traceback (most recent call last):
(APIServer pid=41) RuntimeError: Engine core initialization failed. See root cause above.
"""

OUT_OF_MEMORY = """
(EngineCore pid=52) ERROR 11-21 02:41:20 [core.py:1431] torch.OutOfMemoryError: CUDA out of memory.
(APIServer pid=41) RuntimeError: Engine core initialization failed. See root cause above.
"""

ENVOY = """
[2026-11-21 03:06:49.927][21803][warning][main] [source/server/server.cc:946] a warning
[2026-11-21 03:06:49.927][21803][critical][main] [source/server/server.cc:442] cannot bind '1.2.3.4'
"""

PROMETHEUS = """
ts=2026-11-21T03:06:49.927Z caller=main.go:1180 level=error err="error loading config"
ts=2026-11-21T03:06:49.927Z caller=main.go:900 level=error msg="Unable to start" err="bind: in use"
"""


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (ARGPARSE, "vllm serve: error: argument --max-num-seqs: invalid int value: 'many'"),
        (CONFIG, "Value error, User-specified max_model_len (99999) is greater than 2048"),
        (ENGINE_CORE, "ValueError: To serve one request 2 GiB"),
        (OUT_OF_MEMORY, "torch.OutOfMemoryError: CUDA out of memory."),
        ("RuntimeError: Engine core initialization failed.", "RuntimeError: Engine core"),
        (ENVOY, "cannot bind '1.2.3.4'"),
        (PROMETHEUS, 'msg="Unable to start" err="bind: in use"'),
        ("INFO all is well\nnothing to see", None),
        ("", None),
    ],
)
def test_the_line_that_explains_is_found(output: str, reason: str | None) -> None:
    found = log_words.reason(output.splitlines())
    assert (found is None) == (reason is None)
    assert reason is None or reason in str(found)


def test_no_logger_prefix_is_shown() -> None:
    assert log_words.reason(ENGINE_CORE.splitlines()) == ("ValueError: To serve one request 2 GiB")


def test_phases_come_in_their_order_once() -> None:
    lines = [
        "INFO Starting to load model /models/tiny...",
        "INFO Loading weights took 0.11 seconds",
        "INFO GPU KV cache size: 8,192 tokens",
        "INFO Starting to load model again",
        "INFO:     Application startup complete.",
    ]
    assert log_words.phases(lines) == ["weights", "weights loaded", "kv cache", "server"]


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("OSError: [Errno 98] Address already in use", True),
        (
            "error while attempting to bind on address ('127.0.0.1', 1): address already in use",
            True,
        ),
        ("OSError: [Errno 9] Bad file descriptor", False),
    ],
)
def test_a_lost_port_is_recognised(line: str, taken: bool) -> None:
    assert log_words.address_in_use([line]) is taken


def write(path: Path, first: int, last: int) -> None:
    path.write_text("".join(f"{number}\n" for number in range(first, last)))


def test_the_end_spans_files(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    write(tmp_path / "engine.log.10", 0, 10)
    write(tmp_path / "engine.log.2", 10, 20)
    write(tmp_path / "engine.log.1", 20, 30)
    write(log, 30, 35)
    (tmp_path / "engine.log.old").write_text("not one of them\n")
    assert process_log.tail(log, 100) == [str(n) for n in range(35)]
    assert process_log.tail(log, 8) == [str(n) for n in range(27, 35)]
    assert process_log.tail(log, 0) == []
    assert process_log.tail(tmp_path / "none", 5) == []


def test_the_end_of_a_long_file_is_read_from_behind(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    write(log, 0, 40_000)
    assert process_log.tail(log, 3) == ["39997", "39998", "39999"]


def test_following_goes_on_over_rotations(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    write(log, 0, 5)

    def grow(first: int) -> None:
        with log.open("a") as file:
            file.write(f"{first}\n{first + 1}\n")

    def rotate() -> None:
        if (tmp_path / "engine.log.1").exists():
            (tmp_path / "engine.log.1").rename(tmp_path / "engine.log.2")
        log.rename(tmp_path / "engine.log.1")
        log.touch()

    def twice_between_two_looks() -> None:
        grow(7)
        rotate()
        grow(9)
        rotate()
        grow(11)

    steps = iter([lambda: grow(5), twice_between_two_looks, lambda: None])

    def wait() -> bool:
        step = next(steps, None)
        if step is not None:
            step()
        return step is not None

    lines = list(process_log.follow(log, tail_lines=2, wait=wait))
    assert lines == [str(n) for n in range(3, 13)]


def test_following_gives_a_last_line_without_its_end(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    steps = iter([True, False])

    def wait() -> bool:
        log.write_text("cut sho")
        return next(steps)

    assert list(process_log.follow(log, tail_lines=2, wait=wait)) == ["cut sho"]
