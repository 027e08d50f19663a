"""The thread that generates, for all requests that wait when it is free.

On small models a batch of sixteen takes little longer than one request. A row of the batch has its
own temperature, seed and length, so a reply does not depend on the other rows, up to the rounding
of the arithmetic: a seeded request gives the same reply again.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from queue import Empty, Queue
from typing import Any

import torch
from transformers import LogitsProcessor

from omnicore.models.processor import Encoder, collate
from omnicore.serving.prompt import PreparedRequest
from omnicore.serving.request import RequestError
from omnicore.serving.response import Generation

logger = logging.getLogger(__name__)

MAX_BATCH = 32  # requests

Update = Callable[[Generation | RequestError], None]


class GenerationJob:
    """One request in flight.

    Attributes:
        prepared: The request.
        update: Called in the batcher's thread at the end, with `stream` after every token.
        stream: Whether tokens are reported one by one.
        abandoned: Set by the caller when nobody waits for the reply any longer.
    """

    def __init__(self, prepared: PreparedRequest, update: Update, *, stream: bool) -> None:
        self.prepared, self.update, self.stream = prepared, update, stream
        self.abandoned = False
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish = ""
        seed = secrets.randbits(62) if prepared.seed is None else prepared.seed
        self.noise = torch.Generator().manual_seed(seed)

    def generation(self, encoder: Encoder) -> Generation:
        """Return the reply so far, the end of the turn among its tokens."""
        tokens = tuple(encoder.tokenizer.batch_decode([[token] for token in self.ids]))
        # A copy: the next token is appended while this one is still being sent.
        return Generation(encoder.text([self.ids])[0], tokens, tuple(self.logprobs), self.finish)

    def sample(self, scores: torch.Tensor) -> int:
        """Sample a token from unnormalised log-probabilities, [vocabulary]."""
        temperature = self.prepared.temperature
        if temperature:
            # The argmax of scores with Gumbel noise is a sample of their softmax.
            uniform = torch.rand(len(scores), generator=self.noise).clamp_min(1e-20)
            scores = scores / temperature - torch.log(-torch.log(uniform.to(scores.device)))
        return int(scores.argmax())

    def append(self, token: int, logprob: float, encoder: Encoder) -> None:
        """Append a token, and report it where that is wanted."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        if token == encoder.eos_id:
            self.finish = "stop"
        elif len(self.ids) == self.prepared.max_tokens:
            self.finish = "length"
        if self.finish or self.stream:
            self.update(self.generation(encoder))


class _RowSampler(LogitsProcessor):  # type: ignore[misc]
    """Chooses each row's next token and leaves only it possible for transformers' greedy choice."""

    def __init__(
        self, jobs: Sequence[GenerationJob], encoder: Encoder, stopped: threading.Event
    ) -> None:
        self._jobs, self._encoder, self._stopped = jobs, encoder, stopped

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        logprobs = torch.log_softmax(scores, -1)
        scores[:, self._encoder.suppressed] = -torch.inf
        for row, job in enumerate(self._jobs):
            token = self._encoder.eos_id
            if not (job.finish or job.abandoned or self._stopped.is_set()):
                token = job.sample(scores[row])
                job.append(token, float(logprobs[row, token]), self._encoder)
            scores[row] = -torch.inf
            scores[row, token] = 0.0
        return scores


class Batcher:
    """Queue of requests and the loop that answers them.

    `run` needs its own thread; `submit` may be called from any thread.
    """

    def __init__(self, observe_batch: Callable[[int], object]) -> None:
        """Create a batcher; `observe_batch` gets the size of every batch."""
        self._observe_batch = observe_batch
        self._queue: Queue[GenerationJob] = Queue()  # its callers bound it
        self._stopped = threading.Event()

    def submit(self, job: GenerationJob) -> None:
        """Queue a request.

        Raises:
            RequestError: The batcher has been stopped.
        """
        if self._stopped.is_set():
            raise _shutting_down()
        self._queue.put(job)

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return self._queue.qsize()

    def run(self, model: Any, encoder: Encoder) -> None:
        """Answer requests until `stop`, then report an error to all unfinished ones.

        A batch that fails reports the error to its own requests only.
        """
        while not self._stopped.is_set():
            jobs = [job for job in self._next_jobs() if not job.abandoned]
            try:
                if jobs:
                    self._observe_batch(len(jobs))
                    self._generate(model, encoder, jobs)
            except Exception as error:
                logger.exception("a batch failed")
                reason = f"generation failed: {type(error).__name__}: {error}"
                _fail_unfinished(jobs, RequestError(500, reason, "generation_failed"))
            if self._stopped.is_set():
                _fail_unfinished(jobs, _shutting_down())
        while not self._queue.empty():
            _fail_unfinished([self._queue.get_nowait()], _shutting_down())

    def _next_jobs(self) -> list[GenerationJob]:
        """Return the requests that wait, after at most 0.2 seconds."""
        try:
            jobs = [self._queue.get(timeout=0.2)]
        except Empty:
            return []
        while len(jobs) < MAX_BATCH and not self._queue.empty():
            jobs.append(self._queue.get_nowait())
        return jobs

    def stop(self) -> None:
        """End `run` and all generation at the next token."""
        self._stopped.set()

    @torch.inference_mode()
    def _generate(self, model: Any, encoder: Encoder, jobs: Sequence[GenerationJob]) -> None:
        prompts = [job.prepared.prompt for job in jobs]
        batch = collate(prompts, None, encoder.pad_id, model.device)
        del batch["labels"]
        model.generate(
            **batch,
            max_new_tokens=max(job.prepared.max_tokens for job in jobs),
            do_sample=False,
            logits_processor=[_RowSampler(jobs, encoder, self._stopped)],
        )


def _shutting_down() -> RequestError:
    return RequestError(503, "the server shut down before the reply was complete: retry", "ending")


def _fail_unfinished(jobs: Sequence[GenerationJob], error: RequestError) -> None:
    for job in jobs:
        if not job.finish:
            job.finish = "error"
            job.update(error)
