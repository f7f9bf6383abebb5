"""The replica model in real time: requests in, tokens to their sinks, counts to the meter.

In: jobs from the server, the clock's time. Out: calls of each job's ``Sink`` as its tokens come
due. It knows nothing of HTTP or of the event loop; ``pace.Pacer`` says when to look again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from enova.capacity.perf.point import StepTime
from enova.capacity.sim.replica import Replica, ReplicaLimits, SimRequest, StepResult
from enova.services.emulator.exposition import EngineState
from enova.services.emulator.meter import Meter
from enova.services.emulator.pace import EARLY_S, Clock

_MOST_AT_ONCE_S = 0.02
"""Wall seconds spent catching up before the event loop gets its turn."""


class Sink(Protocol):
    """Where one request's tokens go."""

    def emit(self, count: int) -> None:
        """``count`` more tokens, and more to come."""
        ...

    def finish(self, count: int, reason: str) -> None:
        """The last ``count`` tokens (0 when aborted) and why the answer ends here."""
        ...


class Job:
    """One request in the engine. Times are wall seconds."""

    __slots__ = (
        "arrival",
        "cached",
        "emitted",
        "first",
        "id",
        "last",
        "max_tokens",
        "output_tokens",
        "preemptions",
        "prompt_tokens",
        "reason",
        "scheduled",
        "sink",
    )

    def __init__(
        self,
        job_id: int,
        sink: Sink,
        *,
        prompt_tokens: int,
        output_tokens: int,
        max_tokens: int,
        reason: str,
    ) -> None:
        self.id = job_id
        self.sink = sink
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.max_tokens = max_tokens
        self.reason = reason
        self.arrival = 0.0
        self.scheduled: float | None = None
        self.first: float | None = None
        self.last: float | None = None
        self.emitted = 0
        self.cached = 0
        self.preemptions = 0


class AdjustableStepTime:
    """A step law that a fault can slow down from the next step on."""

    def __init__(self, law: StepTime) -> None:
        self._law = law
        self.factor = 1.0

    def __call__(self, *, prefill_tokens: int, decodes: int, context_tokens: int) -> float:
        return self.factor * self._law(
            prefill_tokens=prefill_tokens, decodes=decodes, context_tokens=context_tokens
        )


class Engine:
    """One emulated engine."""

    def __init__(self, law: StepTime, limits: ReplicaLimits, clock: Clock, meter: Meter) -> None:
        self.limits = limits
        self.meter = meter
        self._law = AdjustableStepTime(law)
        self._replica = Replica(self._law, limits)
        self._clock = clock
        self._jobs: dict[int, Job] = {}
        self._unscheduled: deque[Job] = deque()
        self._next_id = 0
        self._previous_step = 0.0
        self._lag = 0.0
        self._hits_seen = 0
        self.prefill_backlog = 0

    @property
    def unfinished(self) -> int:
        """Requests inside, waiting or running."""
        return len(self._jobs)

    def new_id(self) -> int:
        """A number no other job has."""
        self._next_id += 1
        return self._next_id

    def submit(self, job: Job, prefix: Sequence[int]) -> None:
        """Take a job in. Raises ValueError when it can never fit."""
        job.arrival = self._clock.wall()
        now = self._clock.now()
        request = SimRequest(
            id=job.id,
            arrival_s=now,
            prompt_tokens=job.prompt_tokens,
            output_tokens=job.output_tokens,
            prefix=tuple(prefix),
        )
        self._replica.submit(request, now)
        self._jobs[job.id] = job
        self._unscheduled.append(job)
        self.prefill_backlog += job.prompt_tokens
        self._note_scheduled(job.arrival)

    def abort(self, job_id: int) -> None:
        """Forget a job; its sink hears ``abort``. Unknown and finished ids are ignored."""
        job = self._jobs.pop(job_id, None)
        if job is None:
            return
        if job.scheduled is None:
            self._unscheduled.remove(job)
        if job.first is None:
            self.prefill_backlog -= job.prompt_tokens
        self._replica.abort(job_id, self._clock.now())
        self._note_scheduled(self._clock.wall())
        self.meter.finished["abort"] += 1
        job.sink.finish(0, "abort")

    def abort_all(self) -> int:
        """Abort everything; how many that were."""
        jobs = list(self._jobs)
        # The youngest first: the others then never get their freed blocks for a last step.
        for job_id in reversed(jobs):
            self.abort(job_id)
        return len(jobs)

    def slow_down(self, factor: float) -> None:
        """Multiply the time of all steps that start from now on."""
        self._law.factor = factor

    def hang(self) -> None:
        """Stop all progress."""
        self._clock.freeze()

    def go_on(self) -> None:
        """Go on where it hung."""
        self._clock.thaw()

    def next_due(self) -> float | None:
        """Wall time of the next step's end; None when idle or hanging."""
        end = self._replica.next_step_end()
        if end is None or self._clock.frozen:
            return None
        return self._clock.wall_at(end)

    def advance(self) -> None:
        """End every step that is due, within a bound on the time spent here."""
        started = wall = self._clock.wall()
        while (due := self.next_due()) is not None and due <= wall + EARLY_S:
            self._lag = max(0.0, wall - due)
            self._deliver(self._replica.finish_step(), wall)
            wall = self._clock.wall()
            if wall - started > _MOST_AT_ONCE_S:
                return

    def state(self) -> EngineState:
        """What a scrape shows of the scheduler."""
        replica = self._replica
        return EngineState(
            running=replica.running,
            waiting=replica.waiting,
            kv_usage=replica.kv_blocks_used / self.limits.kv_blocks,
            prefix_queries=replica.prefix_queries,
            prefix_hits=replica.prefix_hits,
            preemptions=replica.preemptions,
            lag_s=self._lag,
        )

    def _deliver(self, result: StepResult, wall: float) -> None:
        jobs = self._jobs
        for job_id in result.preempted:
            if job_id in jobs:
                jobs[job_id].preemptions += 1
        finished = frozenset(result.finished)
        gaps = self.meter.histograms["inter_token_latency_seconds"]
        previous = self._previous_step
        in_step = 0
        tokens = 0
        for job_id, count in result.emitted:
            job = jobs[job_id]
            tokens += count
            last = job.last
            if last == previous:
                in_step += 1
            elif last is not None:
                gaps.observe(wall - last)
            else:
                self._first_token(job, wall)
            job.last = wall
            job.emitted += count
            if job_id in finished:
                del jobs[job_id]
                self._finish(job, wall)
                job.sink.finish(count, job.reason)
            else:
                job.sink.emit(count)
        if in_step:
            # All that emitted in the step before waited equally long.
            gaps.observe(wall - previous, in_step)
        self._previous_step = wall
        self.meter.generation_tokens += tokens
        self.meter.histograms["iteration_tokens_total"].observe(result.prefill_tokens + tokens)
        self._note_scheduled(wall)

    def _first_token(self, job: Job, wall: float) -> None:
        job.first = wall
        self.prefill_backlog -= job.prompt_tokens
        meter = self.meter
        meter.prompt_tokens += job.prompt_tokens
        meter.prompt_tokens_cached += job.cached
        meter.histograms["time_to_first_token_seconds"].observe(wall - job.arrival)
        meter.histograms["request_params_n"].observe(1)
        meter.histograms["request_max_num_generation_tokens"].observe(job.max_tokens)

    def _finish(self, job: Job, wall: float) -> None:
        meter = self.meter
        observed = meter.histograms
        scheduled = job.arrival if job.scheduled is None else job.scheduled
        first = wall if job.first is None else job.first
        decode = wall - first
        meter.finished[job.reason] += 1
        observed["e2e_request_latency_seconds"].observe(wall - job.arrival)
        observed["request_queue_time_seconds"].observe(scheduled - job.arrival)
        observed["request_prefill_time_seconds"].observe(first - scheduled)
        observed["request_inference_time_seconds"].observe(wall - scheduled)
        observed["request_decode_time_seconds"].observe(decode)
        observed["request_num_preemptions"].observe(job.preemptions)
        observed["request_prompt_tokens"].observe(job.prompt_tokens)
        observed["request_generation_tokens"].observe(job.emitted)
        observed["request_prefill_kv_computed_tokens"].observe(job.prompt_tokens - job.cached)
        observed["request_time_per_output_token_seconds"].observe(
            decode / (job.emitted - 1) if job.emitted > 1 else 0.0
        )
        observed["request_params_max_tokens"].observe(job.max_tokens)

    def _note_scheduled(self, wall: float) -> None:
        """Find out which jobs the replica admitted.

        It admits in order of arrival and keeps what it put back at the head of its queue, so the
        tail of that queue is exactly what it never admitted. Prefix hits of jobs admitted in one
        step are shared among them by prompt length; their sum is exact.
        """
        waiting = self._replica.waiting
        admitted = []
        while len(self._unscheduled) > waiting:
            job = self._unscheduled.popleft()
            job.scheduled = wall
            admitted.append(job)
        hits = self._replica.prefix_hits - self._hits_seen
        self._hits_seen += hits
        prompt_tokens = sum(job.prompt_tokens for job in admitted)
        for job in admitted:
            job.cached = hits * job.prompt_tokens // prompt_tokens
            hits -= job.cached
            prompt_tokens -= job.prompt_tokens
