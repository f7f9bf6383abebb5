"""The shim's output: bounded files, whole lines, no secrets. And that it needs nothing."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from enova.effects.drivers import process_shim
from enova.effects.drivers.process_shim import _Output


def output(folder: Path, *, most_bytes: int = 100, secrets: list[bytes] | None = None) -> _Output:
    return _Output(folder / "engine.log", most_bytes=most_bytes, keep=3, secrets=secrets or [])


def files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir(), reverse=True)]


def test_it_imports_the_standard_library_only() -> None:
    tree = ast.parse(Path(process_shim.__file__).read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).partition(".")[0])
    assert names <= set(sys.stdlib_module_names)


def test_files_stay_bounded_and_lines_whole(tmp_path: Path) -> None:
    out = output(tmp_path)
    for number in range(100):
        out.add(f"line {number:03d}\n".encode())
    found = files(tmp_path)
    assert len(found) == 3
    assert all(len(data) <= 100 and data.endswith(b"\n") for data in found)
    assert b"".join(found).endswith(b"line 098\nline 099\n")


def test_one_big_chunk_is_spread_over_files(tmp_path: Path) -> None:
    out = output(tmp_path)
    out.add(b"".join(f"{n:04d}\n".encode() for n in range(1000)))
    assert all(len(data) <= 100 for data in files(tmp_path))
    assert b"".join(files(tmp_path)).endswith(b"0998\n0999\n")


def test_a_line_longer_than_a_file_is_cut(tmp_path: Path) -> None:
    out = output(tmp_path)
    out.add(b"x" * 250 + b"\n")
    assert [len(data) for data in files(tmp_path)] == [100, 100, 51]


@given(st.lists(st.integers(1, 40), max_size=20), st.integers(0, 30))
def test_a_secret_is_blanked_however_it_is_cut(cuts: list[int], before: int) -> None:
    import tempfile

    secret = b"canary-0123456789"
    text = b"." * before + b"token=" + secret + b" and again " + secret + b"\nnext\n"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = output(folder, most_bytes=10_000, secrets=[secret])
        rest = text
        for cut in cuts:
            out.add(rest[:cut])
            rest = rest[cut:]
        out.add(rest)
        out.finish()
        written = b"".join(files(folder))
    assert written == text.replace(secret, b"[secret]")
    assert secret.decode() not in "\n".join(out.last_lines())


def test_words_for_ends() -> None:
    assert process_shim._words(3, None, asked=False) == "exited with code 3"
    assert "memory runs out" in process_shim._words(None, 9, asked=False)
    assert process_shim._words(None, 9, asked=True) == "killed by SIGKILL"
    assert process_shim._words(None, 11, asked=False) == "killed by SIGSEGV"
