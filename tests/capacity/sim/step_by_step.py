"""The replica written the slow way: every step walks every sequence and every block has a number.

It states vLLM's scheduling rules as plainly as possible; the event-jumping replica must agree.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from enova.capacity.perf.point import StepTime
from enova.capacity.sim.replica import ReplicaLimits, SimRequest


@dataclass(eq=False)
class Seq:
    request: SimRequest
    output: int
    computed: int = 0
    emitted: int = 0
    decoding: bool = False
    blocks: list[int] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return self.request.prompt_tokens + self.emitted


class SlowReplica:
    def __init__(self, step_time: StepTime, limits: ReplicaLimits) -> None:
        self.step_time = step_time
        self.limits = limits
        self.waiting: list[Seq] = []
        self.running: list[Seq] = []
        self.empty = list(range(limits.kv_blocks))
        self.unused_cached: list[int] = []  # oldest first
        self.references = dict.fromkeys(self.empty, 0)
        self.hash_of: dict[int, int] = {}
        self.scheduled: list[tuple[Seq, int]] = []
        self.now = 0.0
        self.ends: float | None = None
        self.preemptions = 0
        self.hits = 0
        self.log: list[tuple[float, int]] = []  # (time, request id) for every token

    def submit(self, request: SimRequest, now: float) -> None:
        output = min(request.output_tokens, self.limits.max_model_len - request.prompt_tokens)
        self.waiting.append(Seq(request, output))
        if self.ends is None:
            self.now = max(self.now, now)
            self.schedule()

    def abort(self, request_id: int) -> None:
        for queue in (self.waiting, self.running):
            for seq in list(queue):
                if seq.request.id == request_id:
                    queue.remove(seq)
                    self.free(seq)
        self.scheduled = [(s, n) for s, n in self.scheduled if s.request.id != request_id]

    def new_block(self) -> int:
        if self.empty:
            block = self.empty.pop()
        else:
            block = self.unused_cached.pop(0)
            del self.hash_of[block]
        self.references[block] = 1
        return block

    def spare(self) -> int:
        return len(self.empty) + len(self.unused_cached)

    def used(self) -> int:
        return self.limits.kv_blocks - self.spare()

    def free(self, seq: Seq) -> None:
        for block in reversed(seq.blocks):
            self.references[block] -= 1
            if self.references[block] == 0:
                (self.unused_cached if block in self.hash_of else self.empty).append(block)
        seq.blocks = []

    def preempt(self) -> Seq:
        victim = self.running.pop()
        self.free(victim)
        victim.computed = 0
        victim.decoding = False
        self.waiting.insert(0, victim)
        self.preemptions += 1
        return victim

    def grow(self, seq: Seq, tokens: int) -> None:
        size = self.limits.block_size
        while len(seq.blocks) * size < seq.computed + tokens:
            seq.blocks.append(self.new_block())
        if self.limits.prefix_caching:
            for i, value in enumerate(seq.request.prefix[: seq.request.prompt_tokens // size]):
                # Once, when it becomes full: a second copy of a cached block stays unknown, also
                # when the first is evicted later. (vLLM would find it then.)
                filled = seq.computed < (i + 1) * size <= seq.computed + tokens
                if filled and value not in self.hash_of.values():
                    self.hash_of[seq.blocks[i]] = value

    def lacking(self, seq: Seq, tokens: int) -> int:
        size = self.limits.block_size
        return -(-(seq.computed + tokens) // size) - len(seq.blocks)

    def schedule(self) -> None:
        budget = self.limits.max_num_batched_tokens
        self.scheduled = []
        preempted = False
        index = 0
        while index < len(self.running) and budget > 0:
            seq = self.running[index]
            tokens = min(seq.tokens - seq.computed, budget)
            gone = False
            while self.lacking(seq, tokens) > self.spare():
                preempted = True
                if self.preempt() is seq:
                    gone = True
                    break
            if gone:
                break
            self.grow(seq, tokens)
            self.scheduled.append((seq, tokens))
            budget -= tokens
            index += 1
        while not preempted and self.waiting and budget > 0:
            if len(self.running) == self.limits.max_num_seqs:
                break
            seq = self.waiting[0]
            by_hash = {value: block for block, value in self.hash_of.items()}
            found: list[int] = []
            if self.limits.prefix_caching:
                size = self.limits.block_size
                for value in seq.request.prefix[: seq.request.prompt_tokens // size]:
                    if value not in by_hash or (len(found) + 1) * size >= seq.tokens:
                        break
                    found.append(by_hash[value])
            computed = len(found) * self.limits.block_size
            tokens = min(seq.tokens - computed, budget)
            lacking = -(-(computed + tokens) // self.limits.block_size) - len(found)
            if lacking + sum(1 for b in found if self.references[b] == 0) > self.spare():
                break
            for block in found:
                if self.references[block] == 0:
                    self.unused_cached.remove(block)
                self.references[block] += 1
            seq.blocks = found
            seq.computed = computed
            self.waiting.pop(0)
            self.running.append(seq)
            self.grow(seq, tokens)
            self.scheduled.append((seq, tokens))
            budget -= tokens
        decodes = [s for s, _ in self.scheduled if s.decoding]
        chunks = [(s, n) for s, n in self.scheduled if not s.decoding]
        if not self.scheduled:
            self.ends = None
            return
        context = sum(s.tokens for s in decodes) + sum(s.computed for s, _ in chunks)
        self.ends = self.now + self.step_time(
            prefill_tokens=sum(n for _, n in chunks),
            decodes=len(decodes),
            context_tokens=context,
        )

    def finish_step(self) -> None:
        assert self.ends is not None
        self.now = self.ends
        for seq, tokens in self.scheduled:
            seq.computed += tokens
            if seq.computed < seq.tokens:
                continue
            seq.emitted += 1
            seq.decoding = True
            self.log.append((self.now, seq.request.id))
            if seq.emitted == seq.output:
                self.running.remove(seq)
                self.free(seq)
        self.schedule()
