"""One replica of a vLLM V1 engine in virtual time: the model every prediction rests on.

In: requests, a step time and the engine's limits. Out: what each step produced. It keeps vLLM's
rules: a token budget per step, running sequences first, chunked prefill, admission in arrival
order by free blocks and by ``max_num_seqs``, preemption of the latest with recompute, and a
prefix cache by block hashes. The estimator and the fleet simulator drive it on virtual time, the
emulator in real time.

A step costs time in proportion to what changes in it, not to how many sequences run: decoding
sequences all advance by one token a step, so each is kept as two step numbers (when it finishes,
when it next needs a block). ``stride`` takes all the steps until the next change at once.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from enova.capacity.perf.point import StepTime
from enova.capacity.sim.blocks import BlockPool


@dataclass(frozen=True)
class ReplicaLimits:
    """What bounds a step. ``kv_blocks`` are blocks of ``block_size`` tokens for all sequences."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    kv_blocks: int
    block_size: int = 16
    prefix_caching: bool = True

    def __post_init__(self) -> None:
        if min(self.max_num_seqs, self.max_model_len, self.block_size) < 1:
            raise ValueError("max_num_seqs, max_model_len and block_size must be at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least "
                f"max_num_seqs ({self.max_num_seqs}), the engine refuses to start otherwise"
            )
        if self.kv_blocks * self.block_size < self.max_model_len:
            raise ValueError(
                f"the KV cache holds {self.kv_blocks * self.block_size} tokens, less than one "
                f"sequence of max_model_len ({self.max_model_len})"
            )


@dataclass(frozen=True, slots=True)
class SimRequest:
    """One request. ``prefix`` holds one hash for each full block of the prompt's shared start."""

    id: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    prefix: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did. ``emitted`` are (request id, tokens), ``preempted`` the ids put back.

    ``began`` is when the step started; ``admitted`` the ids that left the queue for the first
    time at that moment.
    """

    now: float
    emitted: tuple[tuple[int, int], ...]
    finished: tuple[int, ...]
    first_token: tuple[int, ...]
    prefill_tokens: int
    decode_tokens: int
    preempted: tuple[int, ...]
    began: float = 0.0
    admitted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Stride:
    """Several pure decode steps in which no sequence began, ended or was put back."""

    now: float
    steps: int
    decodes: int
    seconds: float


class _Sequence:
    """One request inside the engine. ``emitted`` and ``computed`` are current while it prefills;
    once it decodes they are those at step ``since`` and grow by one a step."""

    __slots__ = (
        "admitted",
        "computed",
        "emitted",
        "finish_step",
        "hashes",
        "held",
        "id",
        "output",
        "prompt",
        "registered",
        "residue",
        "since",
        "started",
    )

    def __init__(self, request: SimRequest, output: int, hashes: tuple[int, ...]) -> None:
        self.id = request.id
        self.prompt = request.prompt_tokens
        self.output = output
        self.hashes = hashes
        self.computed = 0
        self.emitted = 0
        self.held: list[int] = []
        self.registered = 0
        self.since = 0
        self.finish_step = 0
        self.residue = 0
        self.admitted = False
        self.started = False

    def target(self) -> int:
        """Tokens that must be computed before the next one can be sampled."""
        return self.prompt + self.emitted


class Replica:
    """One engine. Times passed in must not go back."""

    def __init__(self, step_time: StepTime, limits: ReplicaLimits) -> None:
        self._step_time = step_time
        self.limits = limits
        self._waiting: deque[_Sequence] = deque()
        self._known: dict[int, _Sequence] = {}
        self._decoding: dict[int, _Sequence] = {}
        self._prefilling: dict[int, _Sequence] = {}
        self._finish: dict[int, dict[int, _Sequence]] = {}
        self._finish_heap: list[int] = []
        self._needs_block: list[dict[int, _Sequence]] = [{} for _ in range(limits.block_size)]
        self._context = 0
        self._pool = BlockPool(limits.kv_blocks)
        self._busy = False
        self._blocked = False
        self._now = 0.0
        self._ends = 0.0
        self._chunks: list[tuple[_Sequence, int]] = []
        self._preempted: list[int] = []
        self._admitted: list[int] = []
        self._steps = 0
        self._preemptions = 0
        self._prefix_queries = 0
        self._prefix_hits = 0

    @property
    def running(self) -> int:
        """Sequences that hold blocks."""
        return len(self._decoding) + len(self._prefilling)

    @property
    def waiting(self) -> int:
        """Sequences not admitted yet, or put back."""
        return len(self._waiting)

    @property
    def kv_blocks_used(self) -> int:
        """Blocks that cannot be given away; cached blocks nobody uses do not count."""
        return self._pool.used

    @property
    def prefix_queries(self) -> int:
        """Prompt tokens looked up in the prefix cache so far."""
        return self._prefix_queries

    @property
    def prefix_hits(self) -> int:
        """Prompt tokens found in the prefix cache so far."""
        return self._prefix_hits

    @property
    def preemptions(self) -> int:
        """Times a sequence was put back for want of blocks."""
        return self._preemptions

    @property
    def steps(self) -> int:
        """Steps finished so far: the engine's heartbeat."""
        return self._steps

    def submit(self, request: SimRequest, now: float) -> None:
        """Queue a request at ``now``. Output beyond ``max_model_len`` is cut off.

        Raises ValueError for a prompt that leaves no room for one output token, and for an id
        that is already inside.
        """
        if request.id in self._known:
            raise ValueError(f"request {request.id} is already in this replica")
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError("a request has at least one prompt and one output token")
        room = self.limits.max_model_len - request.prompt_tokens
        if room < 1:
            raise ValueError(
                f"a prompt of {request.prompt_tokens} tokens leaves no room for an answer "
                f"within max_model_len ({self.limits.max_model_len})"
            )
        hashes = request.prefix[: request.prompt_tokens // self.limits.block_size]
        sequence = _Sequence(
            request,
            min(request.output_tokens, room),
            hashes if self.limits.prefix_caching else (),
        )
        self._known[request.id] = sequence
        if not self._waiting:
            self._blocked = False
        self._waiting.append(sequence)
        if not self._busy:
            self._now = max(self._now, now)
            self._start_step()

    def abort(self, request_id: int, now: float) -> None:
        """Forget a request; unknown ids are ignored. The step under way keeps its length."""
        sequence = self._known.pop(request_id, None)
        if sequence is None:
            return
        if request_id in self._decoding or request_id in self._prefilling:
            self._leave(sequence, step=self._steps, ahead=1)
            self._chunks = [(s, n) for s, n in self._chunks if s is not sequence]
        else:
            self._waiting.remove(sequence)
        self._blocked = False

    def next_step_end(self) -> float | None:
        """When the step under way ends, None when idle."""
        return self._ends if self._busy else None

    def finish_step(self) -> StepResult:
        """End the step under way at ``next_step_end()`` and start the next one there.

        Raises RuntimeError when idle.
        """
        if not self._busy:
            raise RuntimeError("no step is under way")
        began, now = self._now, self._ends
        self._now = now
        preempted, admitted = tuple(self._preempted), tuple(self._admitted)
        decoding = len(self._decoding)
        emitted = [(request_id, 1) for request_id in self._decoding]
        self._context += decoding
        finished = []
        for sequence in self._finish.pop(self._steps, {}).values():
            finished.append(sequence.id)
            self._leave(sequence, step=self._steps + 1)
            del self._known[sequence.id]
        first = []
        prefill = 0
        for sequence, tokens in self._chunks:
            prefill += tokens
            if sequence.computed < sequence.target():
                continue
            sequence.emitted += 1
            emitted.append((sequence.id, 1))
            if not sequence.started:
                sequence.started = True
                first.append(sequence.id)
            if sequence.emitted == sequence.output:
                finished.append(sequence.id)
                self._leave(sequence, step=self._steps)
                del self._known[sequence.id]
            else:
                self._begin_decoding(sequence)
        self._steps += 1
        result = StepResult(
            now=now,
            emitted=tuple(emitted),
            finished=tuple(finished),
            first_token=tuple(first),
            prefill_tokens=prefill,
            decode_tokens=decoding,
            preempted=preempted,
            began=began,
            admitted=admitted,
        )
        self._start_step()
        return result

    def stride(self, before: float) -> Stride | None:
        """End all coming steps in which nothing but decoding happens, as one.

        Takes only steps that end at or before ``before``; None when the step under way is not
        such a step. Afterwards the first step not taken is under way.
        """
        decoding = len(self._decoding)
        if not self._busy or self._chunks or self._preempted or not decoding:
            return None
        if self._waiting and not self._blocked:
            return None
        if self._ends > before:
            return None
        most = min(self._next_finish() - self._steps, self._quiet_steps())
        if most < 1:
            return None
        first = self._decode_time(1)
        last = self._decode_time(most)
        slope = (last - first) / (most - 1) if most > 1 else 0.0
        # Ends of the steps: _ends, _ends + T1, _ends + T1 + T2, ...; T grows by ``slope`` a step.
        taken = 1 + _steps_within(before - self._ends, first, slope, most - 1)
        later = taken - 1
        now = self._ends + later * first + slope * later * (later - 1) / 2
        started = self._now
        self._advance_blocks(taken)
        self._steps += taken
        self._context += decoding * taken
        self._now = now
        self._ends = now + self._decode_time(0)
        return Stride(now=now, steps=taken, decodes=decoding, seconds=now - started)

    def _decode_time(self, ahead: int) -> float:
        """Length of the pure decode step ``ahead`` steps after the one under way."""
        decoding = len(self._decoding)
        return self._step_time(
            prefill_tokens=0,
            decodes=decoding,
            context_tokens=self._context + decoding * (1 + ahead),
        )

    def _next_finish(self) -> int:
        """Number of the first step in which a decoding sequence ends."""
        while self._finish_heap[0] not in self._finish:
            heapq.heappop(self._finish_heap)
        return self._finish_heap[0]

    def _quiet_steps(self) -> int:
        """How many steps can end before the one after them would lack a block."""
        size = self.limits.block_size
        spare = self._pool.spare
        whole, spare = divmod(spare, len(self._decoding))
        steps = whole * size
        for offset in range(size):
            need = len(self._needs_block[(self._steps + 1 + offset) % size])
            if need > spare:
                break
            spare -= need
            steps += 1
        return steps

    def _advance_blocks(self, steps: int) -> None:
        """Give out the blocks that the ``steps`` steps after the one under way need."""
        size = self.limits.block_size
        whole, rest = divmod(steps, size)
        need = whole * len(self._decoding)
        need += sum(len(self._needs_block[(self._steps + 1 + i) % size]) for i in range(rest))
        self._pool.take(need)

    def _start_step(self) -> None:
        """Decide what the next step computes, at ``self._now``; go idle when nothing can run."""
        self._preempted = []
        self._admitted = []
        self._chunks = []
        chunk_context = 0

        needy = self._needs_block[self._steps % self.limits.block_size]
        while len(needy) > self._pool.spare:
            self._pool.forget_unused()  # earlier sequences took every spare block first
            self._preempt_latest()
        self._pool.take(len(needy))
        # A budget of at least max_num_seqs always has room for every decode.
        budget = self.limits.max_num_batched_tokens - len(self._decoding)

        for sequence in tuple(self._prefilling.values()):
            tokens = min(sequence.target() - sequence.computed, budget)
            need = self._blocks(sequence.computed + tokens) - self._blocks(sequence.computed)
            while sequence.id in self._prefilling and need > self._pool.spare:
                self._preempt_latest()
            if sequence.id in self._prefilling and tokens > 0:
                chunk_context += sequence.computed
                self._take_chunk(sequence, tokens, need)
                budget -= tokens

        if not self._preempted:
            while self._waiting and budget > 0 and self.running < self.limits.max_num_seqs:
                sequence = self._waiting[0]
                tokens = self._admit(sequence, budget)
                if tokens == 0:
                    break
                self._waiting.popleft()
                chunk_context += sequence.computed - tokens
                budget -= tokens
        self._blocked = bool(self._waiting) and not self._preempted

        prefill = sum(tokens for _, tokens in self._chunks)
        decoding = len(self._decoding)
        self._busy = bool(prefill or decoding)
        if self._busy:
            self._ends = self._now + self._step_time(
                prefill_tokens=prefill,
                decodes=decoding,
                context_tokens=self._context + decoding + chunk_context,
            )

    def _admit(self, sequence: _Sequence, budget: int) -> int:
        """Start a waiting sequence with its first chunk; its tokens, 0 when blocks lack."""
        size = self.limits.block_size
        # At least one token is computed, else there would be nothing to sample from.
        usable = min(len(sequence.hashes), (sequence.target() - 1) // size)
        hits = self._pool.cached(sequence.hashes[:usable])
        found = sequence.hashes[:hits]
        tokens = min(sequence.target() - hits * size, budget)
        need = self._blocks(hits * size + tokens) - hits
        if need + self._pool.unused(found) > self._pool.spare:
            return 0
        self._pool.share(found)
        sequence.held = list(found)
        sequence.registered = hits
        sequence.computed = hits * size
        if not sequence.admitted:
            sequence.admitted = True
            self._admitted.append(sequence.id)
            if self.limits.prefix_caching:
                self._prefix_queries += sequence.prompt
                self._prefix_hits += hits * size
        self._prefilling[sequence.id] = sequence
        self._take_chunk(sequence, tokens, need)
        return tokens

    def _take_chunk(self, sequence: _Sequence, tokens: int, blocks: int) -> None:
        """Put ``tokens`` of a prefill into the step; its full shared blocks become findable."""
        self._pool.take(blocks)
        sequence.computed += tokens
        full = min(len(sequence.hashes), sequence.computed // self.limits.block_size)
        sequence.held += self._pool.publish(sequence.hashes[sequence.registered : full])
        sequence.registered = max(sequence.registered, full)
        self._chunks.append((sequence, tokens))

    def _begin_decoding(self, sequence: _Sequence) -> None:
        """From the next step on, one token a step; called while ``_steps`` is the one ending."""
        del self._prefilling[sequence.id]
        sequence.since = self._steps + 1
        sequence.finish_step = self._steps + sequence.output - sequence.emitted
        sequence.residue = (sequence.since - sequence.computed) % self.limits.block_size
        self._decoding[sequence.id] = sequence
        self._context += sequence.computed
        self._needs_block[sequence.residue][sequence.id] = sequence
        ending = self._finish.get(sequence.finish_step)
        if ending is None:
            ending = self._finish[sequence.finish_step] = {}
            heapq.heappush(self._finish_heap, sequence.finish_step)
        ending[sequence.id] = sequence

    def _leave(self, sequence: _Sequence, *, step: int, ahead: int = 0) -> None:
        """Take a sequence out and free its blocks.

        ``step``: the decode steps before it have counted. ``ahead``: tokens of the step under
        way whose block a decoding sequence has already taken.
        """
        if self._decoding.pop(sequence.id, None) is not None:
            grown = step - sequence.since
            sequence.computed += grown
            sequence.emitted += grown
            self._context -= sequence.computed
            del self._needs_block[sequence.residue][sequence.id]
            ending = self._finish.get(sequence.finish_step, {})
            ending.pop(sequence.id, None)
            if not ending:
                self._finish.pop(sequence.finish_step, None)
            blocks = self._blocks(sequence.computed + ahead)
        else:
            del self._prefilling[sequence.id]
            blocks = self._blocks(sequence.computed)
        self._pool.release(blocks - len(sequence.held), sequence.held)
        sequence.held = []
        sequence.registered = 0

    def _preempt_latest(self) -> None:
        """Put the sequence admitted last back to the head of the queue; it starts over."""
        latest = next(reversed((self._prefilling or self._decoding).values()))
        self._leave(latest, step=self._steps)
        latest.computed = 0
        self._waiting.appendleft(latest)
        self._preempted.append(latest.id)
        self._preemptions += 1

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_size)


def _steps_within(span: float, first: float, slope: float, most: int) -> int:
    """Largest m <= most with first + (first + slope) + ... (m terms) <= span."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if middle * first + slope * middle * (middle - 1) / 2 <= span:
            low = middle
        else:
            high = middle - 1
    return low
