"""The one thread that generates.

Whatever waits when it is free is answered together: on small models a batch of sixteen takes little
longer than one request.

A row of the batch has its own temperature, seed and length, so a reply does not depend on what it
was batched with (beyond the rounding of the arithmetic): a seeded draw is the same whenever it is
asked.
"""

from __future__ import annotations

import secrets
import threading
import traceback
from collections.abc import Callable, Sequence
from queue import Empty, Queue
from typing import Any

import torch
from transformers import LogitsProcessor

from omnicore.models.processor import Encoder, collate
from omnicore.serving.chat import Generation, PreparedRequest, RequestError

MAX_BATCH = 32  # requests in a batch

Tell = Callable[[Generation | RequestError], None]


class GenerationJob:
    """One request on its way.

    `tell` is called in the batcher's thread: at every token where `stream`, and at the end.
    """

    def __init__(self, asked: PreparedRequest, tell: Tell, *, stream: bool) -> None:
        self.asked, self.tell, self.stream = asked, tell, stream
        self.left = False  # set by whoever asked when nobody waits for the reply any more
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish = ""
        self.noise = torch.Generator().manual_seed(
            secrets.randbits(62) if asked.seed is None else asked.seed
        )

    def answer(self, encoder: Encoder) -> Generation:
        """The text so far, and its tokens one by one, the end of the turn among them."""
        tokens = tuple(encoder.tokenizer.batch_decode([[token] for token in self.ids]))
        # A copy: the next token is appended while this answer is still being sent.
        return Generation(encoder.text([self.ids])[0], tokens, tuple(self.logprobs), self.finish)


class _RowSampler(LogitsProcessor):  # type: ignore[misc]
    """Chooses every row's next token by leaving it alone above all others; transformers then takes
    the greedy one."""

    def __init__(
        self, jobs: Sequence[GenerationJob], encoder: Encoder, ended: threading.Event
    ) -> None:
        self._jobs, self._encoder, self._ended = jobs, encoder, ended

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        logprobs = torch.log_softmax(scores, -1)
        scores[:, self._encoder.suppressed] = -torch.inf
        for row, job in enumerate(self._jobs):
            if job.finish or job.left or self._ended.is_set():
                chosen = self._encoder.eos_id
            else:
                if job.asked.temperature:
                    # Adding Gumbel noise and taking the greatest is sampling from the softmax.
                    even = (
                        torch.rand(scores.shape[1], generator=job.noise)
                        .clamp_min(1e-20)
                        .to(scores.device)
                    )
                    scores[row] = scores[row] / job.asked.temperature - torch.log(-torch.log(even))
                chosen = int(scores[row].argmax())
                self._took(job, chosen, float(logprobs[row, chosen]))
            scores[row] = -torch.inf
            scores[row, chosen] = 0.0
        return scores

    def _took(self, job: GenerationJob, token: int, logprob: float) -> None:
        job.ids.append(token)
        job.logprobs.append(logprob)
        job.finish = (
            "stop"
            if token == self._encoder.eos_id
            else "length"
            if len(job.ids) == job.asked.most
            else ""
        )
        if job.finish or job.stream:
            job.tell(job.answer(self._encoder))


class Batcher:
    """`run` is for a thread of its own; `put` may be called from any other."""

    def __init__(self, sizes: Callable[[int], object]) -> None:
        """`sizes` is told the size of every batch."""
        self._sizes = sizes
        self._queue: Queue[GenerationJob] = Queue()  # whoever takes requests in bounds them
        self._ended = threading.Event()

    def submit(self, job: GenerationJob) -> None:
        """Raises Refused after `stop`."""
        if self._ended.is_set():
            raise _cut()
        self._queue.put(job)

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    def run(self, model: Any, encoder: Encoder) -> None:
        """Answers until `stop`, then tells all whose replies are not whole.

        A batch that fails is told to those who asked; the next one is not its victim.
        """
        while not self._ended.is_set():
            try:
                jobs = [self._queue.get(timeout=0.2)]
            except Empty:
                continue
            while len(jobs) < MAX_BATCH and not self._queue.empty():
                jobs.append(self._queue.get_nowait())
            jobs = [job for job in jobs if not job.left]
            try:
                if jobs:
                    self._sizes(len(jobs))
                    self._answer(model, encoder, jobs)
            except Exception as error:
                traceback.print_exc()
                _tell_unfinished(
                    jobs,
                    RequestError(
                        500,
                        f"generation failed: {type(error).__name__}: {error}",
                        "generation_failed",
                    ),
                )
            if self._ended.is_set():
                _tell_unfinished(jobs, _cut())
        while not self._queue.empty():
            _tell_unfinished([self._queue.get_nowait()], _cut())

    def stop(self) -> None:
        self._ended.set()

    @torch.inference_mode()
    def _answer(self, model: Any, encoder: Encoder, jobs: Sequence[GenerationJob]) -> None:
        batch = collate([job.asked.prompt for job in jobs], None, encoder.pad_id, model.device)
        del batch["labels"]
        rows = _RowSampler(jobs, encoder, self._ended)
        model.generate(
            **batch,
            max_new_tokens=max(job.asked.most for job in jobs),
            do_sample=False,
            logits_processor=[rows],
        )


def _cut() -> RequestError:
    return RequestError(503, "the server was ended before the reply was whole: ask again", "ending")


def _tell_unfinished(jobs: Sequence[GenerationJob], why: RequestError) -> None:
    for job in jobs:
        if not job.finish:
            job.finish = "error"
            job.tell(why)
