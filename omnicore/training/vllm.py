"""Rollouts by a vLLM server, in a separate environment: vLLM wants an older transformers.

The server loads the policy's weights before each step from a directory that it can read. On a GPU
that it shares with the trainer it sleeps while the trainer trains. Both use routes of vLLM's
development mode: start it with VLLM_SERVER_DEV_MODE=1 (and --enable-sleep-mode); docs/train.md has
the command.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from omnicore import processes
from omnicore.config import Profile, RlvrConfig
from omnicore.engines.openai import media_item, request_head, request_tail, text_item
from omnicore.errors import EngineError
from omnicore.models import thinker
from omnicore.models.generate import BatchSlice
from omnicore.models.processor import Encoder
from omnicore.training.rollouts import Sample
from omnicore.training.rows import TrainingRow, error_context
from omnicore.training.trainable_modules import merged_weights

CONCURRENCY = 64  # requests in flight
TIMEOUT = 1_800.0  # seconds for all requests of a step


class _Token(BaseModel):
    logprob: float


class _Logprobs(BaseModel):
    content: list[_Token]


class _Choice(BaseModel):
    token_ids: list[int]
    logprobs: _Logprobs
    finish_reason: str


class _Completion(BaseModel):
    model_config = ConfigDict(extra="ignore")

    prompt_token_ids: list[int]
    choices: list[_Choice]


class VllmRollouts:
    """Generates on the server at `rlvr.vllm_server_base_url`.

    All methods raise EngineError if the server cannot be reached, refuses a request or returns an
    incomplete rollout: a step does not train on the rest.
    """

    def __init__(
        self, config: RlvrConfig, profile: Profile, encoder: Encoder, scratch: Path
    ) -> None:
        """Connect to the server.

        Args:
            config: The section `rlvr`.
            profile: How prompts are shown and replies are bounded.
            encoder: The policy's encoder.
            scratch: Directory for the weights, unless `rlvr.vllm_weights_dir` names one.
        """
        self._config, self._profile, self._encoder = config, profile, encoder
        self._base = config.vllm_server_base_url.rstrip("/")
        self._root = self._base.removesuffix("/v1")
        self._weights = Path(config.vllm_weights_dir or scratch) / "policy"
        (models,) = asyncio.run(self._call([("GET", f"{self._base}/models", None)]))
        # The server has one model only, whatever its name is.
        self._model = models["data"][0]["id"]

    def load(self, model: Any) -> None:
        """Save the policy's weights and let the server reload them; the first process does it."""
        if not processes.is_main():
            return
        shutil.rmtree(self._weights, ignore_errors=True)
        plain, weights = merged_weights(model)
        thinker.save(plain, self._encoder, self._weights, dtype=model.dtype, weights=weights)
        reload = {
            "method": "reload_weights",
            "kwargs": {"weights_path": str(self._weights.resolve())},
        }
        self._post("collective_rpc", reload)
        # The caches hold what the weights before computed.
        self._post("reset_prefix_cache")
        self._post("reset_encoder_cache")

    def generate(
        self,
        rows: Sequence[TrainingRow],
        n: int,
        *,
        temperature: float,
        seed: int,
        logprobs: bool = False,
        batch_slice: BatchSlice | None = None,
    ) -> list[Sample]:
        """Generate as `RolloutEngine` says; the server always gives log-probs."""
        first_seed = seed + (batch_slice[0] if batch_slice else 0)
        calls = []
        for place, row in enumerate(rows):
            body = self._request_body(row, n, temperature, first_seed + place)
            calls.append(("POST", f"{self._base}/chat/completions", body))
        samples = []
        for answer in asyncio.run(self._call(calls)):
            samples += self._samples(answer)
        return samples

    def wake(self) -> None:
        """Let the server take the GPU's memory again."""
        if self._config.vllm_enable_sleep_mode and processes.is_main():
            self._post("wake_up")

    def sleep(self) -> None:
        """Let the server free the GPU's memory."""
        if self._config.vllm_enable_sleep_mode and processes.is_main():
            self._post("sleep?level=1")

    def _samples(self, answer: Any) -> list[Sample]:
        """Return the samples of an answer; raise EngineError if one is incomplete."""
        try:
            completion = _Completion.model_validate(answer)
        except ValidationError as error:
            raise EngineError(
                f"{self._base} gives no token ids and log-probs ({error.errors()[0]['loc']}):"
                " rollouts need vLLM 0.11 or newer",
                code="rollout-no-token-ids",
                field="rlvr.vllm_server_base_url",
            ) from error
        prompt = tuple(completion.prompt_token_ids)
        samples = []
        for choice in completion.choices:
            tokens = tuple(token.logprob for token in choice.logprobs.content)
            ended = choice.finish_reason in ("stop", "length")
            if len(tokens) != len(choice.token_ids) or not ended:
                raise EngineError(
                    f"{self._base} returned {len(choice.token_ids)} tokens, {len(tokens)} log-probs"
                    f" and finish_reason {choice.finish_reason!r}: check the server's log",
                    code="rollout-incomplete",
                    field="rlvr.vllm_server_base_url",
                )
            truncated = choice.finish_reason == "length"
            samples.append(Sample(prompt, tuple(choice.token_ids), truncated, tokens))
        return samples

    def _request_body(self, row: TrainingRow, n: int, temperature: float, seed: int) -> bytes:
        items = []
        with error_context(row.request.name):
            for part in row.request.parts:
                if isinstance(part, str):
                    items.append(text_item(part))
                else:
                    items.append(media_item(part, row.request.root, self._profile))
        fields = {
            "model": self._model,
            "n": n,
            "temperature": temperature,
            "top_p": 1,
            "top_k": 0,
            "max_tokens": self._profile.max_new_tokens,
            "logprobs": True,
            "return_token_ids": True,
            # A sampled placeholder without media would break the trainer's forward pass.
            "logit_bias": {str(token): -100 for token in self._encoder.suppressed},
        }
        head = request_head(fields, self._profile.system)
        content = b",".join(item.json for item in items)
        return head + content + request_tail(items, seed % 2**31)

    def _post(self, route: str, body: Mapping[str, Any] | None = None) -> None:
        asyncio.run(self._call([("POST", f"{self._root}/{route}", to_json(body or {}))]))

    async def _call(self, calls: Sequence[tuple[str, str, bytes | None]]) -> list[Any]:
        """Send requests, some at a time, and return the decoded answers in order."""
        slots = asyncio.Semaphore(CONCURRENCY)

        async def send(
            session: aiohttp.ClientSession, method: str, url: str, body: bytes | None
        ) -> Any:
            async with slots, session.request(method, url, data=body) as response:
                content = await response.text()
                _require_ok(url, response.status, content)
                return await response.json(content_type=None) if content else None

        headers = {"Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        try:
            async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
                return await asyncio.gather(*(send(session, *call) for call in calls))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise EngineError(
                f"{self._root} does not answer ({error!r}): start the vLLM server, or correct"
                " rlvr.vllm_server_base_url",
                code="rollout-server-unreachable",
                field="rlvr.vllm_server_base_url",
            ) from error


def _require_ok(url: str, status: int, content: str) -> None:
    if status == 404:
        raise EngineError(
            f"{url} does not exist: start vLLM with VLLM_SERVER_DEV_MODE=1, and end"
            " rlvr.vllm_server_base_url in /v1",
            code="rollout-server-no-route",
            field="rlvr.vllm_server_base_url",
        )
    if status != 200:
        raise EngineError(
            f"{url} answers HTTP {status}: {content[:300]}",
            code="rollout-server-refused",
            field="rlvr.vllm_server_base_url",
        )
