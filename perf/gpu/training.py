"""Measure training on one GPU with random weights of the dimensions of Qwen2.5-Omni-3B.

Run `python -m perf.gpu.training`.

  sft    tokens a second, their share of the device's peak (MFU), and peak memory, all weights and LoRA
  rlvr   a step's seconds, split into rollouts, log-probs without gradient (of `rlvr.beta`) and update

The peak is a product of large bfloat16 matrices on the same device, measured before. Work is 6
operations a weight and position it is applied to (4 with LoRA, whose frozen weights get no
gradient); embeddings, head, attention and recomputation for the backward pass are not counted.
Every row has a picture of 448 x 448 and ten seconds of sound. `--size tiny` is the embedded
architecture on small media: it shows that the script runs, and nothing about a GPU. It has not run
on a GPU yet.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from PIL import Image

from omnicore.config import LoraConfig, MixtureConfig
from omnicore.config.recipe import Recipe, load_recipe
from omnicore.schema import Media, Query
from omnicore.storage.files import write_jsonl

# The shipped dimensions say nothing of positions: a dry run makes no pass.
ROPE = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]}


class Size(NamedTuple):
    """Of the rows' media and texts: pixels a side, seconds, and tokens of a question and a
    reply."""

    pixels: int
    seconds: float
    words: int
    square: int  # side of the matrices of the ceiling


SIZES = {"tiny": Size(28, 0.5, 8, 256), "3b": Size(448, 10.0, 64, 8192)}


def build(size: str, dtype: torch.dtype, device: str = "") -> tuple[Any, Any]:
    """A model with random weights, and its encoder: the embedded tokenizer, whose ids any
    vocabulary holds."""
    from transformers import (
        GenerationConfig,
        Qwen2_5OmniThinkerConfig,
        Qwen2_5OmniThinkerForConditionalGeneration,
        Qwen2VLImageProcessorPil,
        WhisperFeatureExtractor,
    )

    from omnicore.models import tiny
    from omnicore.models.processor import Encoder

    processor = tiny.build_processor()
    config = tiny.build_config(processor.tokenizer)
    if size == "3b":
        ids = {
            name: value
            for name, value in config.to_dict().items()
            if name.endswith(("_token_index", "_token_id"))
        }
        shipped = json.loads(
            (files("omnicore.config") / "recipes" / "qwen2.5-omni-3b.json").read_text()
        )["thinker_config"]
        text = {**shipped["text_config"], "rope_parameters": ROPE}
        parts = {name: shipped[name] for name in ("vision_config", "audio_config")}
        config = Qwen2_5OmniThinkerConfig(text_config=text, **parts, **ids)
        processor.image_processor = Qwen2VLImageProcessorPil(patch_size=14)
        processor.feature_extractor = WhisperFeatureExtractor(
            128, chunk_length=300, return_attention_mask=True
        )
    torch.manual_seed(0)
    with torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")):
        model = Qwen2_5OmniThinkerForConditionalGeneration(config).to(dtype)
    encoder = Encoder(processor)
    encoder.suppressed.extend(
        range(len(processor.tokenizer), config.text_config.vocab_size)
    )  # no tokenizer could spell them
    model.generation_config = GenerationConfig(
        eos_token_id=encoder.eos_id, pad_token_id=encoder.pad_id, do_sample=False
    )
    return model, encoder


def write_rows(count: int, size: Size, root: Path) -> None:
    """`rows.jsonl`: queries of random pictures, sounds and digits."""
    rng = np.random.default_rng(0)
    queries = []
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (size.pixels, size.pixels, 3), dtype=np.uint8)).save(
            root / f"{number}.png"
        )
        soundfile.write(
            root / f"{number}.wav", rng.normal(0, 0.1, int(16_000 * size.seconds)), 16_000
        )
        made = {"image": root / f"{number}.png", "audio": root / f"{number}.wav"}
        media = [
            Media(kind=k, uri=f.name, sha256=hashlib.sha256(f.read_bytes()).hexdigest())
            for k, f in made.items()
        ]  # type: ignore[arg-type]
        text = " ".join(map(str, rng.integers(0, 9, size.words)))
        given = {"question": text, "options": ("1", "2"), "answer": "1", "target": text}
        queries.append(
            Query(
                benchmark="random",
                id=str(number),
                type="sum",
                media=tuple(media),
                cluster=str(number),
                **given,
            )
        )
    write_jsonl(root / "rows.jsonl", queries)


def rows_of(root: Path, encoder: Any, recipe: Recipe) -> list[Any]:
    from omnicore.engines.transformers import PromptReader
    from omnicore.training.rows import read_rows

    return read_rows(
        root / "rows.jsonl", PromptReader(encoder, recipe.profile), recipe.profile, targets=True
    )


def ceiling(side: int) -> float:
    """Operations a second of a product of two bfloat16 matrices, the best of ten."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(10):
        began = now()
        a @ b
        best = max(best, 2 * side**3 / (now() - began))
    return best


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def work(model: Any, row: Any) -> float:
    """Weights times positions of a row, by part: tokens for the language model, patches and frames
    for the towers."""
    from omnicore.training.trainable_modules import module_group

    weights: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        if "lora_" not in name and "embed_tokens" not in name and name != "lm_head.weight":
            weights[module_group(name)] += parameter.numel()
    media = {feature.kind: feature.tensors for feature in row.prompt.media}
    patches, frames = (
        len(media["image"]["pixel_values"]),
        media["audio"]["input_features"].shape[-1] // 2,
    )
    return float(
        weights["language"] * row.tokens + weights["vision"] * patches + weights["audio"] * frames
    )


@contextmanager
def stopwatch(
    owner: Any, name: str, into: list[float], when: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Adds to `into` the seconds of each call of a method, within the block."""
    method = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        began, counts = now(), when()
        try:
            return method(*args, **kwargs)
        finally:
            if counts:
                into.append(now() - began)

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, method)


def peak() -> str:
    return (
        f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if torch.cuda.is_available() else "-"
    )


def sft(size: str, recipe: Recipe, root: Path, most: float, lora: LoraConfig | None) -> str:
    """A row of the table.

    Its median step is of all but the first two, which allocate.
    """
    from omnicore.training import sft, trainable_modules

    config = recipe.sft.model_copy(update={"lora": lora, "mixture": MixtureConfig()})
    model, encoder = build(size, trainable_modules.load_options(config)["dtype"])
    rows, at = rows_of(root, encoder, recipe), list[float]()
    each = work(model, rows[0])
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    sft.train(model, encoder, rows, config, seed=0, log=lambda _: at.append(now()))
    step = statistics.median(b - a for a, b in pairwise(at[1:]))
    share = (4 if lora else 6) * each * config.train_batch_size / step / most
    name = f"sft, {'LoRA' if lora else 'all weights'}, {config.precision}, batch {config.train_batch_size}"
    return (
        f"| {name} | {step:.3f} s | {rows[0].tokens * config.train_batch_size / step:.0f} | {share:.1%} |"
        f" {peak()} |"
    )


def rlvr(size: str, recipe: Recipe, root: Path) -> str:
    """A row of the second table, of the steps after the first.

    Rewards are random, so that every group is trained on.
    """
    from omnicore.training import rlvr, trainable_modules

    config = recipe.rlvr.model_copy(
        update={"control": "random_reward", "mixture": MixtureConfig(), "dynamic_sampling": 0}
    )
    model, encoder = build(size, trainable_modules.load_options(config)["dtype"])
    rows, at = rows_of(root, encoder, recipe), list[float]()
    rolls, scores = list[float](), list[float]()
    trainer = rlvr.OmniGRPOTrainer
    with (
        stopwatch(trainer, "_generate_round", rolls),
        stopwatch(
            trainer,
            "_get_per_token_logps_and_entropies",
            scores,
            lambda: not torch.is_grad_enabled(),
        ),
    ):
        rlvr.train(
            model,
            encoder,
            rows,
            config,
            recipe.profile,
            seed=0,
            log=lambda _: at.append(now()),
            journal=lambda _: None,
        )
    steps = len(at) - 1
    step = (at[-1] - at[0]) / steps
    roll, score = sum(rolls[-steps:]) / steps, sum(scores[-steps:]) / steps if config.beta else 0.0
    name = f"rlvr, {config.rollout_engine}, {config.prompts_per_step} x {config.num_generations}"
    return (
        f"| {name} | {step:.3f} s | {roll:.3f} s | {score:.3f} s | {step - roll - score:.3f} s |"
        f" {peak()} |"
    )


def table(size: str, recipe: Recipe, root: Path) -> list[str]:
    from omnicore.models.runtime import set_up_torch

    set_up_torch(recipe)
    write_rows(max(recipe.sft.train_batch_size, recipe.rlvr.prompts_per_step), SIZES[size], root)
    most = ceiling(SIZES[size].square)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return [
        f"{time.strftime('%Y-%m-%d')}, {device}, size {size}, ceiling {most / 1e12:.2f} TFLOP/s",
        "",
        "| training | step | tokens/s | MFU | most memory |",
        "| --- | --- | --- | --- | --- |",
        *(sft(size, recipe, root, most, lora) for lora in (None, LoraConfig())),
        "",
        "| training | step | rollouts | log-probs | update | most memory |",
        "| --- | --- | --- | --- | --- | --- |",
        rlvr(size, recipe, root),
    ]


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--size", choices=sorted(SIZES), default="3b")
    options.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="of the recipe tiny; repeat",
    )
    given = options.parse_args()
    if given.size == "3b" and not torch.cuda.is_available():
        sys.exit("no GPU here: --size tiny shows that the script runs")
    large = [
        "sft.precision=bfloat16",
        "sft.gradient_checkpointing=true",
        "rlvr.precision=bfloat16",
        "profile.max_new_tokens=256",
    ]
    small = [
        "sft.train_batch_size=8",
        "sft.steps=8",
        "rlvr.prompts_per_step=4",
        "rlvr.steps=4",
        "rlvr.max_logprob_gap=1",
    ]
    recipe = load_recipe("tiny", [*small, *(large if given.size == "3b" else []), *given.set])
    with tempfile.TemporaryDirectory() as name:
        print("\n".join(table(given.size, recipe, Path(name))))


if __name__ == "__main__":
    main()
