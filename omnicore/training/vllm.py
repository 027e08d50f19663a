"""Rollouts by a vLLM server in an environment of its own, since vLLM wants an older transformers
than training does.

The server is given the policy's weights before each step: they are saved to a directory that it can
read, and reloaded from there. On a GPU that it shares with the trainer it sleeps while the trainer
trains. Both are routes of vLLM's development mode: it has to be started with VLLM_SERVER_DEV_MODE=1
(and --enable-sleep-mode); docs/train.md has the command.
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

CONCURRENCY, TIMEOUT = 64, 1_800.0  # requests on their way, and seconds for all of a step's


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
    """Asks the server at `config.vllm_server_base_url`.

    Raises EngineError when it cannot be reached, refuses, or says what is no rollout: a request
    that failed is no reply, and a step does not train on what is left.
    """

    def __init__(
        self, config: RlvrConfig, profile: Profile, encoder: Encoder, scratch: Path
    ) -> None:
        self._config, self._profile, self._encoder = config, profile, encoder
        self._base = config.vllm_server_base_url.rstrip("/")
        self._root = self._base.removesuffix("/v1")
        self._weights = Path(config.vllm_weights_dir or scratch) / "policy"
        models = asyncio.run(self._call([("GET", f"{self._base}/models", None)]))[0]
        self._model = models["data"][0]["id"]  # the only one, whatever it is called

    def load(self, model: Any) -> None:
        if not processes.is_main():
            return  # the first process does it for all
        shutil.rmtree(self._weights, ignore_errors=True)
        plain, weights = merged_weights(model)
        thinker.save(plain, self._encoder, self._weights, dtype=model.dtype, weights=weights)
        reload = {
            "method": "reload_weights",
            "kwargs": {"weights_path": str(self._weights.resolve())},
        }
        self._do("collective_rpc", reload)
        # What was computed with the weights before: without these, the next prompts are read by two models.
        self._do("reset_prefix_cache")
        self._do("reset_encoder_cache")

    def generate(
        self,
        rows: Sequence[TrainingRow],
        n: int,
        *,
        temperature: float,
        seed: int,
        logprobs: bool = False,
        part: BatchSlice | None = None,
    ) -> list[Sample]:
        first = seed + (part[0] if part else 0)
        bodies = [self._body(row, n, temperature, first + place) for place, row in enumerate(rows)]
        found = asyncio.run(
            self._call([("POST", f"{self._base}/chat/completions", body) for body in bodies])
        )
        samples = []
        for answer in found:
            try:
                completion = _Completion.model_validate(answer)
            except ValidationError as error:
                raise EngineError(
                    f"{self._base} gives no token ids and log-probs ({error.errors()[0]['loc']}):"
                    " rollouts need vLLM 0.11 or newer"
                ) from error
            for choice in completion.choices:
                tokens = tuple(token.logprob for token in choice.logprobs.content)
                if len(tokens) != len(choice.token_ids) or choice.finish_reason not in (
                    "stop",
                    "length",
                ):
                    raise EngineError(
                        f"{self._base} gave {len(choice.token_ids)} tokens, {len(tokens)} log-probs"
                        f" and ended by {choice.finish_reason!r}"
                    )
                cut = choice.finish_reason == "length"
                samples.append(
                    Sample(tuple(completion.prompt_token_ids), tuple(choice.token_ids), cut, tokens)
                )
        return samples

    def wake(self) -> None:
        if self._config.vllm_enable_sleep_mode and processes.is_main():
            self._do("wake_up")

    def sleep(self) -> None:
        if self._config.vllm_enable_sleep_mode and processes.is_main():
            self._do("sleep?level=1")

    def _body(self, row: TrainingRow, n: int, temperature: float, seed: int) -> bytes:
        root = row.request.root
        with error_context(row.request.name):
            items = [
                text_item(part) if isinstance(part, str) else media_item(part, root, self._profile)
                for part in row.request.parts
            ]
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
        content = b",".join(item.json for item in items)
        return (
            request_head(fields, self._profile.system) + content + request_tail(items, seed % 2**31)
        )

    def _do(self, route: str, body: Mapping[str, Any] | None = None) -> None:
        asyncio.run(self._call([("POST", f"{self._root}/{route}", to_json(body or {}))]))

    async def _call(self, calls: Sequence[tuple[str, str, bytes | None]]) -> list[Any]:
        gate = asyncio.Semaphore(CONCURRENCY)

        async def call(
            session: aiohttp.ClientSession, method: str, url: str, body: bytes | None
        ) -> Any:
            async with gate, session.request(method, url, data=body) as response:
                content = await response.text()
                if response.status == 404:
                    raise EngineError(
                        f"{url} is not there: start vLLM with VLLM_SERVER_DEV_MODE=1, and"
                        " rlvr.vllm_server_base_url ends in /v1"
                    )
                if response.status != 200:
                    raise EngineError(f"{url} refuses (HTTP {response.status}): {content[:300]}")
                return await response.json(content_type=None) if content else None

        headers = {"Content-Type": "application/json"}
        try:
            async with aiohttp.ClientSession(
                headers=headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT)
            ) as session:
                return await asyncio.gather(*(call(session, *one) for one in calls))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise EngineError(
                f"{self._root} does not answer ({error!r}): start the vLLM server, or mend"
                " rlvr.vllm_server_base_url"
            ) from error
