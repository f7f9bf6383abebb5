"""From texts to a spec: interpolation, overlays, stored documents, notes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from enova.base.errors import SpecError
from enova.base.source import Span
from enova.spec.interpolate import variable_digest
from enova.spec.load import decode, load, load_document
from enova.spec.yaml import SourceText
from tests.spec.examples import RICH, SMALLEST, read


def codes(caught: pytest.ExceptionInfo[SpecError]) -> list[str]:
    return [problem.code for problem in caught.value.problems]


def test_units_become_plain_numbers() -> None:
    spec = read(RICH).spec
    chat = spec.services["chat"]
    assert chat.traffic.peak == 20
    assert chat.traffic.mean == pytest.approx(5)
    assert chat.traffic.prefix_reuse == pytest.approx(0.3)
    assert chat.traffic.output_tokens.mean == 128
    assert chat.goals.ttft == {"p50": 0.2, "p95": 0.4, "p99": 1.0}
    assert chat.goals.tpot == {"p95": 0.04}
    assert chat.rollout.drain_timeout == 90
    assert spec.gateway.limits.max_body == 8 * 2**20
    assert spec.pool.budget == 10
    assert spec.services["code"].engine.name == "emulator"
    assert spec.services["code"].model.id == "./models/tiny"


def test_engine_arguments_keep_their_type() -> None:
    args = read(RICH).spec.services["chat"].engine.args
    assert [(key, type(value)) for key, value in args.items()] == [
        ("max-num-seqs", int),
        ("enforce-eager", bool),
        ("swap", float),
        ("mode", str),
    ]


def test_defaults_are_valid_and_the_same_as_written_ones() -> None:
    spec = read(SMALLEST).spec
    assert spec.gateway.port == 9199
    assert [host.name for host in spec.pool.hosts] == ["local"]
    written = read(
        SMALLEST
        + "gateway: {limits: {}}\nmonitoring: {}\npool: {hosts: [{name: local, devices: auto}]}\n"
    ).spec
    assert written == spec


def test_a_stored_document_loads_to_the_same_spec() -> None:
    loaded = read(RICH)
    assert load_document(json.loads(json.dumps(loaded.document))) == loaded.spec


def test_a_stored_document_that_is_wrong_names_the_path() -> None:
    with pytest.raises(SpecError) as caught:
        load_document({"version": 1, "name": "a", "services": {"c": {"model": "x"}}})
    assert caught.value.problems[0].where() == "services.c.traffic"
    with pytest.raises(SpecError):
        load_document(["no", "map"])


def test_to_zero_means_none_need_run() -> None:
    spec = read(RICH).spec
    assert spec.services["code"].scale.fewest == 0
    assert spec.services["chat"].scale.fewest == 1


# --- interpolation


def test_variables_stand_in_values_only_and_are_listed_without_their_value() -> None:
    text = SMALLEST.replace("org/name", "${ORG:-none}/${NAME}") + "gateway:\n  port: ${PORT}\n"
    loaded = read(text, NAME="tiny", PORT="9300", UNUSED="x")
    assert loaded.spec.services["chat"].model.id == "none/tiny"
    assert loaded.spec.gateway.port == 9300
    assert [variable.name for variable in loaded.read] == ["NAME", "ORG", "PORT"]
    assert loaded.read[0].digest == variable_digest("NAME", "tiny") != ""
    assert loaded.read[1].digest == ""
    assert "tiny" not in repr(loaded.read)
    assert loaded.document["gateway"] == {"port": 9300}


@pytest.mark.parametrize(
    ("written", "environment", "meant"),
    [
        ("${A:-x}", {}, "x"),
        ("${A:-x}", {"A": ""}, "x"),
        ("${A:-}y", {}, "y"),
        ("${A}", {"A": "b"}, "b"),
        ("${A:?needed}", {"A": "b"}, "b"),
        ("$$A", {}, "$A"),
        ("$${A}", {}, "${A}"),
        ("a$b", {}, "a$b"),
        ("${A}${A}", {"A": "b"}, "bb"),
        ("${A}", {"A": "${B}"}, "${B}"),
        ('"${A}"', {"A": "12"}, "12"),
        ("${A}x", {"A": "12"}, "12x"),
        ("${A:-a b: c}", {}, "a b: c"),
    ],
)
def test_forms_of_variables(written: str, environment: dict[str, str], meant: str) -> None:
    text = SMALLEST.replace("model: org/name", f"model:\n      id: {written}")
    if ": c" in written:
        text = text.replace(written, f'"{written}"')
    assert read(text, **environment).spec.services["chat"].model.id == meant


def test_a_variable_cannot_add_structure() -> None:
    text = SMALLEST.replace("org/name", "${A}")
    loaded = read(text, A="x\n    engine: emulator".replace("\n", " "))
    assert loaded.spec.services["chat"].engine.name == "vllm"
    assert loaded.spec.services["chat"].model.id.startswith("x ")


def test_keys_are_never_interpolated() -> None:
    with pytest.raises(SpecError) as caught:
        read(SMALLEST + "${A}: 1\n", A="gateway")
    assert codes(caught) == ["E102"]


def test_no_message_shows_the_value_of_a_variable() -> None:
    text = SMALLEST.replace("org/name", "{id: org/name, max_model_len: '${A}', zzz: '${A}'}")
    text += "pool:\n  target: ${A}\n  hosts: ${A}\n  budget: ${A}\n"
    with pytest.raises(SpecError) as caught:
        read(text, A="canary")
    assert len(caught.value.problems) == 5
    assert "canary" not in str(caught.value)


# --- overlays


def test_an_overlay_changes_some_values_and_each_knows_its_file() -> None:
    over = (
        "services:\n  chat:\n    model: {revision: abc}\n    scale: {min: 3}\n    goals:\n"
        "      ttft: 300ms\n"
    )
    loaded = read(RICH, over)
    chat = loaded.spec.services["chat"]
    assert (chat.model.id, chat.model.revision) == ("org/name", "abc")
    assert (chat.scale.min, chat.scale.max) == (3, 6)
    assert chat.goals.ttft == {"p95": 0.3}
    assert loaded.origin(("services", "chat", "scale", "min")) == Span(
        "chat.prod.enova.yaml", 4, 18, 1
    )
    assert loaded.origin(("services", "chat", "scale", "max")) == Span("chat.enova.yaml", 22, 26, 1)
    assert loaded.origin(("services", "code", "rollout", "surge")) is None


def test_an_overlay_widens_a_shorthand_below_it() -> None:
    over = "services: {chat: {model: {revision: abc}, goals: {ttft: {p50: 100ms}}}}\n"
    chat = read(SMALLEST, over).spec.services["chat"]
    assert (chat.model.id, chat.model.revision) == ("org/name", "abc")
    assert chat.goals.ttft == {"p95": 0.4, "p50": 0.1}


def test_lists_are_replaced_unless_their_items_have_names() -> None:
    over = (
        "gateway:\n  api_keys:\n    - {name: web, rate: 9/s}\n"
        "    - {name: batch, secret: {env: BATCH}}\n"
        "pool:\n  hosts:\n    - {name: a, devices: [{gpu: l40s}]}\n"
    )
    spec = read(RICH, over).spec
    keys = spec.gateway.api_keys
    assert [(key.name, key.rate, key.secret.env) for key in keys] == [
        ("web", 9, "WEB_KEY"),
        ("batch", None, "BATCH"),
    ]
    devices = spec.pool.hosts[0].devices
    assert [host.name for host in spec.pool.hosts] == ["a", "b"]
    assert devices != "auto" and [device.gpu for device in devices] == ["l40s"]


def test_null_in_an_overlay_takes_a_key_away() -> None:
    assert read(RICH, "gateway: {tls: ~}\npool: null\n").spec.gateway.tls is None
    assert read(RICH, "pool:\n").spec.pool.target == "process"


def test_problems_of_an_overlay_point_into_it() -> None:
    with pytest.raises(SpecError) as caught:
        read(
            SMALLEST,
            "services: {chat: {scale: {min: 9}}}\n",
            "services: {chat: {scale: {max: 2}}}\n",
        )
    assert caught.value.problems[0].where() == "chat.prod.enova.yaml:1:32"
    with pytest.raises(SpecError) as caught:
        read("a: [", "b: 1\nb: 2")
    assert [problem.where() for problem in caught.value.problems] == [
        "chat.enova.yaml:1:4",
        "chat.prod.enova.yaml:2:1",
    ]


# --- the rest


def test_notes_stop_nothing() -> None:
    text = SMALLEST.replace("    goals: {ttft: 400ms}\n", "    engine: {image: x}\n")
    loaded = read(text + "gateway: {host: 0.0.0.0}\n")
    assert [note.code for note in loaded.notes] == ["N303", "N301", "N302"]
    assert all(note.span is not None for note in loaded.notes)
    late = SMALLEST.replace("{ttft: 400ms}", "{ttft: 4s, e2e: 3s}")
    assert [note.code for note in read(late).notes] == ["N304"]
    emulator = SMALLEST + "    engine: {name: emulator, version: '1', executable: x}\n"
    assert [note.code for note in read(emulator).notes] == ["N301", "N301"]


def test_bytes_that_are_not_utf8_have_a_place() -> None:
    assert decode("f", "a: é\n".encode()).text == "a: é\n"
    with pytest.raises(SpecError) as caught:
        decode("f", b"a: 1\nb: \xc3\xa9 \xff\n")
    assert caught.value.problems[0].span == Span("f", 2, 6)
    with pytest.raises(SpecError) as caught:
        decode("f", b"x" * 5_000_000)
    assert codes(caught) == ["E105"]


def test_nothing_to_load_is_a_problem() -> None:
    with pytest.raises(SpecError) as caught:
        load([], environment={})
    assert codes(caught) == ["E130"]


def test_loading_is_the_same_each_time() -> None:
    first, second = read(RICH), read(RICH)
    assert first.document == second.document
    assert first.spec == second.spec


def test_a_stack_may_not_hide_a_true_behind_version_one() -> None:
    with pytest.raises(SpecError) as caught:
        read(SMALLEST.replace("version: 1", "version: true"))
    assert codes(caught) == ["E113"]


def test_one_mistake_in_an_anchor_is_one_problem() -> None:
    text = RICH.replace("mean: 300/min", "mean: often")
    with pytest.raises(SpecError) as caught:
        read(text)
    (problem,) = caught.value.problems
    assert problem.where() == "chat.enova.yaml:14:13"
    assert "used at chat.enova.yaml:29:14" in problem.message


def test_loading_a_valid_spec_imports_only_pydantic_and_yaml() -> None:
    code = (
        "import sys; from enova.spec.load import load; from enova.spec.yaml import SourceText\n"
        f"load([SourceText('f', {SMALLEST!r})], environment={{}})\n"
        "print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))\n"
        "print(' '.join(sorted(name for name in sys.modules if name.startswith('enova.'))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    top, own = (set(line.split()) for line in done.stdout.splitlines())
    heavy = {"numpy", "scipy", "jinja2", "click", "rich", "httpx", "aiohttp", "difflib", "asyncio"}
    assert top & heavy == set()
    assert {name.split(".")[1] for name in own} == {"base", "spec"}
    assert own & {"enova.spec.translate", "enova.spec.reference", "enova.spec.pages"} == set()


def test_a_text_of_another_stack_is_not_mixed_in() -> None:
    other = SMALLEST.replace("name: chat", "name: other")
    loaded = load([SourceText("a", SMALLEST), SourceText("b", other)], environment={})
    assert loaded.spec.name == "other"
    assert loaded.origin(("name",)) == Span("b", 2, 7, 5)
