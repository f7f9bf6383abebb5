"""Answers as vLLM writes them: whole JSON bodies, and the chunks of a stream as bytes.

In: an ``Ask``, an id, a count of tokens. Out: bytes ready for the socket. The chunk of an ordinary
token differs from the last one by four bytes, so a stream encodes its frame once.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping

from enova.services.emulator.requests import Ask
from enova.services.emulator.tokens import sentence

DONE = b"data: [DONE]\n\n"
_MARK = "@@@@"


class Answer:
    """The text and the wire form of one answer."""

    def __init__(self, ask: Ask, answer_id: str, *, created: int, fingerprint: str) -> None:
        self.ask = ask
        self._id = answer_id
        self._created = created
        self._fingerprint = fingerprint
        self.sentence = sentence(ask.prompt.seed)

    def words(self, start: int, count: int) -> bytes:
        """Words ``start`` to ``start + count`` of the answer: as many tokens."""
        words = self.sentence
        return b"".join([words[number & 127] for number in range(start, start + count)])

    def usage(self, tokens: int) -> dict[str, object]:
        """The usage of a chunk; whole bodies have two more fields."""
        prompt = self.ask.prompt.tokens
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + tokens,
            "completion_tokens": tokens,
        }

    def frame(self) -> tuple[bytes, bytes]:
        """What stands before and after the word in the event of an ordinary token."""
        # From the right: an id that the client chose stands before the text.
        before, _, after = self._event(self._choice(_MARK, None)).rpartition(_MARK.encode())
        return before, after

    def opening(self) -> bytes:
        """The event before the first token: the role in a chat, nothing in a completion."""
        if self.ask.kind == "completion":
            return b""
        choice = {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        more: dict[str, object] = {"usage": self.usage(0)} if self.ask.usage_in_every_chunk else {}
        return self._event(choice, more | {"prompt_token_ids": None, "prompt_text": None})

    def token(self, start: int, count: int) -> bytes:
        """The event of the tokens from ``start`` on, with usage where it was asked for."""
        more = {"usage": self.usage(start + count)} if self.ask.usage_in_every_chunk else {}
        return self._event(self._choice(self.words(start, count).decode(), None), more)

    def last(self, start: int, count: int, reason: str) -> bytes:
        """The event with the finish reason."""
        more: dict[str, object] = {}
        if self.ask.usage_in_every_chunk:
            more["usage"] = self.usage(start + count)
        if not self.ask.include_usage:
            more["system_fingerprint"] = self._fingerprint
        return self._event(self._choice(self.words(start, count).decode(), reason), more)

    def closing(self, tokens: int) -> bytes:
        """What follows the last token: usage where it was asked for, and the end mark."""
        if not self.ask.include_usage:
            return DONE
        body = self._envelope([]) | {
            "usage": self.usage(tokens),
            "system_fingerprint": self._fingerprint,
        }
        return _event(body) + DONE

    def whole(self, tokens: int, reason: str) -> dict[str, object]:
        """The body of an answer that was not streamed."""
        text = self.words(0, tokens).decode()
        usage = self.usage(tokens) | {
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        }
        if self.ask.kind == "completion":
            choice: dict[str, object] = {
                "index": 0,
                "text": text,
                "logprobs": None,
                "finish_reason": reason,
                "stop_reason": None,
                "token_ids": None,
                "prompt_logprobs": None,
                "prompt_token_ids": None,
                "routed_experts": None,
            }
            extra: dict[str, object] = {}
        else:
            choice = {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": text,
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "reasoning": None,
                },
                "logprobs": None,
                "finish_reason": reason,
                "stop_reason": None,
                "token_ids": None,
                "routed_experts": None,
            }
            extra = {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None}
        return (
            self._envelope([choice], whole=True)
            | {
                "service_tier": None,
                "system_fingerprint": self._fingerprint,
                "usage": usage,
            }
            | extra
            | {"kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}
        )

    def _choice(self, text: str, reason: str | None) -> dict[str, object]:
        if self.ask.kind == "completion":
            return {
                "index": 0,
                "text": text,
                "logprobs": None,
                "finish_reason": reason,
                "stop_reason": None,
                "prompt_token_ids": None,
                "token_ids": None,
            }
        choice: dict[str, object] = {
            "index": 0,
            "delta": {"content": text},
            "logprobs": None,
            "finish_reason": reason,
        }
        if reason is not None:
            choice["stop_reason"] = None
        return choice | {"token_ids": None}

    def _envelope(
        self, choices: list[Mapping[str, object]], *, whole: bool = False
    ) -> dict[str, object]:
        if self.ask.kind == "completion":
            name = "text_completion"
        else:
            name = "chat.completion" if whole else "chat.completion.chunk"
        return {
            "id": self._id,
            "object": name,
            "created": self._created,
            "model": self.ask.model,
            "choices": choices,
        }

    def _event(
        self, choice: Mapping[str, object], more: Mapping[str, object] | None = None
    ) -> bytes:
        return _event(self._envelope([choice]) | dict(more or {}))


def _event(body: Mapping[str, object]) -> bytes:
    return b"data: " + to_json(body) + b"\n\n"


def model_card(name: str, *, root: str, max_model_len: int) -> dict[str, object]:
    """One entry of ``/v1/models``."""
    created = int(time.time())
    permission = {
        "id": f"modelperm-{uuid.uuid4().hex[:16]}",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "enova-emulator",
        "root": root,
        "parent": None,
        "max_model_len": max_model_len,
        "permission": [permission],
    }


def to_json(body: object) -> bytes:
    """JSON without spaces, as vLLM sends it."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )
