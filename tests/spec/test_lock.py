"""The lock file: the same text for equal locks, damage with a place, answers by demand."""

from __future__ import annotations

import pytest

from enova.base.errors import SpecError
from enova.spec.lock import (
    Lock,
    LockedImage,
    LockedService,
    answers,
    images_of,
    parse_lock,
    serialise,
)

ENTRY = LockedService(
    choice={"gpu": "h100", "tensor_parallel": 1, "args": {"x": 1.5e-7}, "why": None},
    demand="abc123",
    enova="0.1.0",
    catalog="2026.11",
)
PINNED = LockedImage("sha256:" + "a1" * 32, "2026-11-21")
BY_TAG = LockedImage(None, "2026-11-21", "ghcr.io: no such host")
LOCK = (
    Lock()
    .with_images("shop", None, {"ghcr.io/a/b:1": BY_TAG, "prom/prometheus:v2.42.0": PINNED})
    .with_images("shop", "prod", {"prom/prometheus:v2.42.0": PINNED})
    .with_service(("shop", "default", "chat"), ENTRY)
    .with_service(("shop", "prod", "chat"), ENTRY)
    .with_service(("other", "default", "ü"), ENTRY)
)


def test_a_lock_comes_back_as_it_was() -> None:
    text = serialise(LOCK)
    assert parse_lock(text) == LOCK
    assert serialise(parse_lock(text)) == text
    assert text.endswith("}\n")


FORMAT_1 = """\
{
  "about": "Written by `enova lock`. Commit it; do not edit it.",
  "format": 1,
  "stacks": {
    "shop": {
      "default": {
        "chat": {
          "catalog": "2026.11",
          "choice": {"args": {"x": 1.5e-07}, "gpu": "h100", "tensor_parallel": 1, "why": null},
          "demand": "abc123",
          "enova": "0.1.0"
        }
      }
    }
  }
}
"""
"""As it was written before images were locked."""


def test_a_lock_of_before_images_still_answers() -> None:
    old = parse_lock(FORMAT_1)
    assert answers(old, "shop", env=None, service="chat", demand="abc123") == ENTRY
    assert images_of(old, "shop", env=None) == {}
    assert parse_lock(serialise(old)) == old


def test_images_are_of_one_stack_in_one_environment() -> None:
    mine = images_of(LOCK, "shop", env=None)
    assert mine == {"ghcr.io/a/b:1": BY_TAG, "prom/prometheus:v2.42.0": PINNED}
    assert images_of(LOCK, "shop", env="prod") == {"prom/prometheus:v2.42.0": PINNED}
    assert images_of(LOCK, "other", env=None) == {}
    fewer = LOCK.with_images("shop", None, {"ghcr.io/a/b:1": PINNED})
    assert images_of(fewer, "shop", env=None) == {"ghcr.io/a/b:1": PINNED}
    assert images_of(fewer, "shop", env="prod") == images_of(LOCK, "shop", env="prod")


def test_order_of_insertion_does_not_show() -> None:
    other = Lock(
        dict(reversed(list(LOCK.entries.items()))), dict(reversed(list(LOCK.images.items())))
    )
    assert serialise(other) == serialise(LOCK)


def test_a_choice_answers_only_its_demand() -> None:
    assert answers(LOCK, "shop", env=None, service="chat", demand="abc123") == ENTRY
    assert answers(LOCK, "shop", env="prod", service="chat", demand="abc123") == ENTRY
    assert answers(LOCK, "shop", env=None, service="chat", demand="changed") is None
    assert answers(LOCK, "shop", env="dev", service="chat", demand="abc123") is None
    assert answers(LOCK, "shop", env=None, service="code", demand="abc123") is None


def test_services_that_are_gone_leave_only_their_own_stack_and_environment() -> None:
    kept = LOCK.keep_services("shop", None, frozenset())
    assert sorted(kept.entries) == [("other", "default", "ü"), ("shop", "prod", "chat")]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "enova.lock:1:1", "damaged"),
        ("{\n  oops\n}", "enova.lock:2:3", "damaged"),
        ("[]", "enova.lock:1:1", "not a map"),
        ("{}", "enova.lock:1:1", "format null"),
        ('{"format": 3}', "enova.lock:1:1", "format 3"),
        ('{"format": true}', "enova.lock:1:1", "format true"),
        ('{"format": 2, "stacks": {}}', "enova.lock:1:1", "images is not a map"),
        (serialise(LOCK).replace("sha256:", "sha1:"), "enova.lock:1:1", "digest is not sha256"),
        (serialise(LOCK).replace('"asked"', '"on"'), "enova.lock:1:1", 'no text "asked"'),
        ('{"format": 1}', "enova.lock:1:1", "stacks is not a map"),
        ('{"format": 1, "format": 1}', "enova.lock:1:1", "twice"),
        ('{"format": 1, "stacks": {"a": []}}', "enova.lock:1:1", "a is not a map"),
        (serialise(LOCK).replace('"demand"', '"demnd"'), "enova.lock:1:1", 'no text "demand"'),
        (serialise(LOCK).replace('"choice": {', '"c": {'), "enova.lock:1:1", "choice is not"),
        ("{\n<<<<<<< HEAD\n}", "enova.lock:2:1", "merge conflict"),
        ("[" * 100_000, "enova.lock:1:1", "damaged"),
        ('{"format": ' + "9" * 5000 + "}", "enova.lock:1:1", "damaged"),
    ],
)
def test_damage_has_a_place_and_a_way_out(text: str, place: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_lock(text)
    (problem,) = caught.value.problems
    assert problem.code == "E140"
    assert problem.where() == place
    assert words in problem.message
    assert problem.hint


def test_every_prefix_of_a_lock_is_damage() -> None:
    text = serialise(LOCK)
    for end in range(len(text.rstrip())):
        with pytest.raises(SpecError):
            parse_lock(text[:end])
