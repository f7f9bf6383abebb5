"""Specs that tests share: one that says as much as possible, and the smallest."""

from __future__ import annotations

from enova.spec.load import LoadedSpec, load
from enova.spec.yaml import SourceText

SMALLEST = """\
version: 1
name: chat
services:
  chat:
    model: org/name
    traffic: {peak: 20/s}
    goals: {ttft: 400ms}
"""

RICH = """\
version: 1
name: shop
services:
  chat:
    model: {id: org/name, revision: main, quantization: fp8, max_model_len: 8192, served_name: big}
    engine:
      name: vllm
      version: "0.32.0"
      args: {max-num-seqs: 64, enforce-eager: true, swap: 1.5, mode: fast}
      env: {HF_TOKEN: {env: HF_TOKEN}, B: {file: /run/x}, C: {command: [pass, b]}, D: yes}
      start_timeout: 10m
    traffic: &load
      peak: 20/s
      mean: 300/min
      input_tokens: {mean: 600, p50: 500, p95: 2000}
      output_tokens: 128
      prefix_reuse: 30%
    goals:
      ttft: {p50: 200ms, p95: 400ms, p99: 1s}
      tpot: 40ms
      attainment: 0.99
    scale: {min: 1, max: 6, warm: 1, hold: 5m}
    rollout: {surge: 1, drain_timeout: 1m30s}
    priority: 200
    protect: true
  code:
    model: ./models/tiny
    engine: emulator
    traffic: *load
    scale: {to_zero: true, max: 2, idle: 10m}
gateway:
  host: 127.0.0.1
  port: 9199
  routing: prefix
  api_keys:
    - {name: web, secret: {env: WEB_KEY}, rate: 5/s}
  limits: {max_body: 8MiB, rate: 100/s, max_pending: 10, max_requests: 20, idle_timeout: 5m}
  tls: {certificate: a.pem, key: b.pem}
pool:
  target: process
  hosts:
    - name: a
      devices:
        - {gpu: h100-sxm-80gb, count: 2}
        - {cpu: {cores: 8, memory: 24GiB}}
    - {name: b, devices: auto}
  on_lost_host: replace
  prices: {h100-sxm-80gb: 2.49 USD/h}
  budget: 10 USD/h
monitoring:
  prometheus: {enabled: auto, host: 127.0.0.1, image: "prom/prometheus:v3.5.0"}
  port: 9090
  scrape_interval: 5s
  retention: 2d
  alertmanager: {webhook: {env: ALERTS_URL}, port: 9093}
  grafana: {enabled: on, password: {file: /run/secrets/grafana}}
  tempo: false
  otel: {enabled: off, sampling: 10%}
  dcgm: auto
  node: true
"""


def read(*texts: str, **environment: str) -> LoadedSpec:
    """Load texts as ``chat.enova.yaml`` and its overlays."""
    names = ["chat.enova.yaml", "chat.prod.enova.yaml", "chat.more.enova.yaml"]
    sources = [SourceText(name, text) for name, text in zip(names, texts, strict=False)]
    return load(sources, environment=environment)
