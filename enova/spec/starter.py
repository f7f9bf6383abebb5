"""The spec that ``enova init`` writes: it loads as it is, and three fields are meant to be edited.

In: a stack name, a model, the path of the published schema. Out: the file's text.
"""

from __future__ import annotations

_TEXT = """\
# yaml-language-server: $schema={schema}
#
# One stack: the services, the gateway in front of them, the pool they may use.
# Every field is described by `enova explain FIELD`, for example `enova explain goals.ttft`.

version: 1
name: {name}

services:
  {service}:
    model: {model}                 # 1. a hub id, or the path of a local folder
    engine: {engine}
    traffic:
      peak: 5/s                    # 2. the highest sustained request rate
      input_tokens: 512            #    tokens of a prompt, on average
      output_tokens: 128           #    tokens of an answer
    goals:
      ttft: 500ms                  # 3. what must hold for 95 % of requests
      tpot: 50ms
    scale:
      min: 1

# gateway:
#   port: 9199                     # clients call http://127.0.0.1:9199/{service}/v1/...
# pool:
#   hosts:                         # left out: this machine, with the GPUs it has
#     - name: local
#       devices: [{{gpu: h100-sxm-80gb, count: 2}}]
"""


def starter(
    schema: str,
    *,
    name: str = "chat",
    service: str = "chat",
    model: str = "Qwen/Qwen2.5-0.5B-Instruct",
    engine: str = "vllm",
) -> str:
    """The file's text. ``schema`` is the schema's path as seen from the file, or its URL."""
    return _TEXT.format(schema=schema, name=name, service=service, model=model, engine=engine)
