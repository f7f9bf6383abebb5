"""A recorded trace on disk: JSON lines with the token counts of each request.

In: a path. Out: the laws of input and output lengths. A line needs ``prompt_tokens`` and
``output_tokens``; anything else in it is left alone.
"""

from __future__ import annotations

import json
from pathlib import Path

from enova.base.errors import Refused
from enova.capacity.workload import Lengths


def read_lengths(path: str) -> tuple[Lengths, Lengths]:
    """Input and output lengths as recorded. Raises Refused, naming the line that is wrong."""
    prompts: list[int] = []
    answers: list[int] = []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            prompt, answer = _tokens(path, number, line)
            prompts.append(prompt)
            answers.append(answer)
    if not prompts:
        raise Refused(f"{path} holds no request")
    return Lengths.empirical(prompts), Lengths.empirical(answers)


def _tokens(path: str, number: int, line: str) -> tuple[int, int]:
    try:
        data = json.loads(line)
        counts = [data["prompt_tokens"], data["output_tokens"]]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(
            f"{path}:{number}: a JSON object with prompt_tokens and output_tokens is needed"
        ) from error
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in counts):
        raise Refused(f"{path}:{number}: token counts are whole numbers from 1")
    return counts[0], counts[1]
