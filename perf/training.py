"""Compare training steps with TRL's own on the embedded model: `python -m perf.training`.

  rlvr   an RLVR step on pictures only, ours and stock GRPOTrainer's: same checkpoint, prompts,
         number of rollouts and optimizer. `verified` rewards right answers, and ours leaves out
         groups without an advantage; `random` rewards at random: all groups are trained on
  sft    samples a second, ours and SFTTrainer's with a naive collator, which reads and processes
         the media of each batch anew, in shuffled order; both with TRL's default loss, its fused
         head. `published padding`: with sounds padded to 300 s, as the processor of the published
         checkpoints pads them; the embedded model's own stops at one second
  media  the share of an SFT step that waits for rows once every medium has been read

The two take turns, several rounds, on one thread. A figure is the median over all steps of all
rounds except each run's first, and a ratio that of medians: above 1, ours is faster. Other load on
the machine changes the wall times, and is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from omnicore.config.recipe import Recipe, load_recipe


def has_only_pictures(row: Any) -> bool:
    return {media.kind for media in row.query.media} == {"image"}


class Step(NamedTuple):
    """Wall seconds, and CPU seconds of this process, which other load changes less."""

    wall: float
    cpu: float


class Clock:
    """The steps of a run but the first, from one log record to the next."""

    def __init__(self) -> None:
        self._at: list[Step] = []

    def tick(self, *_: Any) -> None:
        self._at.append(Step(time.perf_counter(), time.process_time()))

    @property
    def steps(self) -> list[Step]:
        return [Step(b.wall - a.wall, b.cpu - a.cpu) for a, b in pairwise(self._at)]


def ticking(clock: Clock) -> Any:
    from transformers import TrainerCallback

    class Ticking(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    return Ticking()


class Bench:
    """The embedded model and rows of its benchmark, prepared once below `root`."""

    def __init__(self, recipe: Recipe, root: Path) -> None:
        from omnicore.models.runtime import set_up_torch
        from omnicore.steps import prepare

        self.recipe, self.root = recipe, root
        set_up_torch(recipe)
        prepare.run(recipe, recipe.prepare, {}, root)

    def start(self, name: str, *, targets: bool) -> tuple[Any, Any, list[Any]]:
        """A fresh model, its encoder, and rows, their media unread."""
        from omnicore.engines.transformers import PromptReader
        from omnicore.models import thinker
        from omnicore.training.rows import read_rows

        model, encoder = thinker.load(self.recipe.model)
        rows = read_rows(
            self.root / name,
            PromptReader(encoder, self.recipe.profile),
            self.recipe.profile,
            targets=targets,
        )
        return model, encoder, rows

    def pad_as_published(self, encoder: Any) -> None:
        """Makes the feature extractor one that pads to the length of Qwen2.5-Omni's; the model
        drops the padding."""
        from transformers import WhisperFeatureExtractor

        size = encoder.processor.feature_extractor.feature_size
        encoder.processor.feature_extractor = WhisperFeatureExtractor(
            size, chunk_length=300, return_attention_mask=True
        )

    def rlvr(
        self,
        steps: int,
        reward: str,
        name: str = "sft.jsonl",
        of: Callable[[Any], bool] = has_only_pictures,
    ) -> list[Step]:
        """Steps on the rows of a file that `of` picks."""
        from omnicore.config import MixtureConfig
        from omnicore.training import rlvr

        model, encoder, rows = self.start(name, targets=False)
        rows = [row for row in rows if of(row)]
        control = {"verified": "none", "random": "random_reward"}[reward]
        config = self.recipe.rlvr.model_copy(
            update={"steps": steps, "control": control, "mixture": MixtureConfig()}
        )
        clock = Clock()
        rlvr.train(
            model,
            encoder,
            rows,
            config,
            self.recipe.profile,
            seed=0,
            log=clock.tick,
            journal=lambda _: None,
        )
        return clock.steps

    def stock_rlvr(self, steps: int, reward: str) -> list[Step]:
        """As TRL's documentation has it: conversations with an image, the processor, a reward
        function."""
        from datasets import Dataset
        from transformers import PrinterCallback
        from trl import GRPOConfig, GRPOTrainer

        from omnicore.media.images import load_image
        from omnicore.training.rewards import RandomReward, compute_reward
        from omnicore.training.sft import COMMON_ARGUMENTS, OPTIMIZER

        model, encoder, rows = self.start("sft.jsonl", targets=False)
        rows = [row for row in rows if has_only_pictures(row)]
        config, random_reward, clock = self.recipe.rlvr, RandomReward(0), Clock()

        def shown(row: Any) -> list[Any]:
            return [
                load_image(self.root / part.uri)
                for part in row.request.parts
                if not isinstance(part, str)
            ]

        def reward_completions(completions: Any, index: Sequence[int], **_: Any) -> list[float]:
            if reward == "random":
                return [random_reward.draw() for _ in completions]
            texts = [completion[0]["content"] for completion in completions]
            return [
                compute_reward(text, False, rows[i].query, self.recipe.profile).score
                for text, i in zip(texts, index, strict=True)
            ]

        with tempfile.TemporaryDirectory() as scratch:
            args = GRPOConfig(
                output_dir=scratch,
                per_device_train_batch_size=config.prompts_per_step * config.num_generations,
                num_generations=config.num_generations,
                max_completion_length=self.recipe.profile.max_new_tokens,
                max_steps=steps,
                learning_rate=config.learning_rate,
                temperature=config.temperature,
                loss_type=config.loss_type,
                seed=0,
                use_cpu=True,
                generation_kwargs={"suppress_tokens": encoder.suppressed},
                **OPTIMIZER,
                **COMMON_ARGUMENTS,
            )
            trainer = GRPOTrainer(
                model=model,
                args=args,
                reward_funcs=reward_completions,
                processing_class=encoder.processor,
                train_dataset=Dataset.from_list(
                    [
                        {"prompt": conversation(row), "images": shown(row), "index": i}
                        for i, row in enumerate(rows)
                    ]
                ),
                callbacks=[ticking(clock)],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return clock.steps

    def sft(self, steps: int, *, published: bool = False) -> tuple[list[Step], list[float]]:
        """The steps, and how long each waited for its rows."""
        from omnicore.training import sft

        model, encoder, rows = self.start("sft.jsonl", targets=True)
        if published:
            self.pad_as_published(encoder)
        config = self.recipe.sft.model_copy(update={"steps": steps})
        clock, waited = Clock(), []

        def log(record: dict[str, Any]) -> None:
            clock.tick()
            waited.append(record["data_seconds"])

        sft.train(model, encoder, rows, config, seed=0, log=log)
        return clock.steps, waited[1:]

    def naive_sft(self, steps: int, *, published: bool = False) -> list[Step]:
        """The collator of many a tutorial: files are opened and processed when their batch comes,
        all in the order of a shuffle."""
        from datasets import Dataset
        from transformers import PrinterCallback
        from trl import SFTConfig, SFTTrainer

        from omnicore.media.images import load_image
        from omnicore.media.sounds import SAMPLE_RATE, load_audio
        from omnicore.training.sft import COMMON_ARGUMENTS, OPTIMIZER

        model, encoder, rows = self.start("sft.jsonl", targets=True)
        if published:
            self.pad_as_published(encoder)
        config, clock, tokenizer = self.recipe.sft, Clock(), encoder.tokenizer

        def batch(chosen: list[dict[str, int]]) -> dict[str, Any]:
            picked = [rows[row["index"]] for row in chosen]
            media = [
                (part.kind, self.root / part.uri)
                for row in picked
                for part in row.request.parts
                if not isinstance(part, str)
            ]
            pictures = [load_image(file) for kind, file in media if kind == "image"]
            sounds = [load_audio(file) for kind, file in media if kind == "audio"]
            texts = [
                encoder.processor.apply_chat_template(conversation(row, row.query.target))
                for row in picked
            ]
            tensors = encoder.processor(
                text=texts,
                images=pictures or None,
                audio=sounds or None,
                padding=True,
                return_tensors="pt",
                sampling_rate=SAMPLE_RATE,
            )
            labels = tensors["input_ids"].clone()
            for row, (ids, label) in enumerate(zip(tensors["input_ids"], labels, strict=True)):
                label[
                    : -len(picked[row].reply) - 1
                ] = -100  # the template ends a turn with a newline
                label[ids == encoder.pad_id] = -100
            return {**tensors, "labels": labels}

        with tempfile.TemporaryDirectory() as scratch:
            args = SFTConfig(
                output_dir=scratch,
                per_device_train_batch_size=config.train_batch_size,
                max_steps=steps,
                learning_rate=config.learning_rate,
                seed=0,
                use_cpu=True,
                dataset_kwargs={"skip_prepare_dataset": True},
                **OPTIMIZER,
                **COMMON_ARGUMENTS,
            )
            trainer = SFTTrainer(
                model=model,
                args=args,
                data_collator=batch,
                processing_class=tokenizer,
                train_dataset=Dataset.from_dict({"index": list(range(len(rows)))}),
                callbacks=[ticking(clock)],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return clock.steps


def conversation(row: Any, reply: str | None = None) -> list[dict[str, Any]]:
    """A row as the processor's chat template takes it."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": part.kind}
        for part in row.request.parts
    ]
    answer = [{"role": "assistant", "content": reply}] if reply else []
    return [{"role": "user", "content": content}, *answer]


def compared(
    name: str, rounds: int, ours: Callable[[], list[Step]], theirs: Callable[[], list[Step]]
) -> str:
    """A row of the table, after `rounds` in which the two took turns."""
    measured: tuple[list[Step], list[Step]] = ([], [])
    for turn in range(rounds):
        for steps, run in zip(measured, (ours, theirs), strict=True):
            steps.extend(run())
        print(
            f"{name}: round {turn + 1} of {rounds}, load {os.getloadavg()[0]:.2f}", file=sys.stderr
        )
    mine, its = (Step(*map(statistics.median, zip(*steps, strict=True))) for steps in measured)
    cells = [
        name,
        f"{mine.cpu * 1000:.0f} ms",
        f"{its.cpu * 1000:.0f} ms",
        f"{its.cpu / mine.cpu:.2f}",
        f"{its.wall / mine.wall:.2f}",
    ]
    counts = " and ".join(str(len(steps)) for steps in measured)
    return f"| {' | '.join([*cells, counts])} |"


def table(recipe: Recipe, rounds: int, steps: int, root: Path) -> list[str]:
    """Of every comparison; `steps` of each run, of which the first is not counted."""
    bench, shares = Bench(recipe, root), list[float]()
    _, _, rows = bench.start("sft.jsonl", targets=True)
    epoch = -(-len(rows) // recipe.sft.train_batch_size)
    longer = max(steps, 2 * epoch + 2)  # more than an epoch, for the share of the media

    def sft(published: bool) -> list[Step]:
        steps_taken, waited = bench.sft(longer, published=published)
        shares.append(sum(waited[epoch:]) / sum(step.wall for step in steps_taken[epoch:]))
        return steps_taken

    lines = [
        "| step | ours, CPU | TRL, CPU | ratio of CPU | ratio of wall | steps |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for reward in ("verified", "random"):
        ours, theirs = (partial(run, steps, reward) for run in (bench.rlvr, bench.stock_rlvr))
        lines.append(compared(f"rlvr, pictures, {reward}", rounds, ours, theirs))
    batch = f"sft, batch {recipe.sft.train_batch_size}"
    lines.append(compared(batch, rounds, partial(sft, False), partial(bench.naive_sft, longer)))
    slow = partial(bench.naive_sft, 4, published=True)  # seconds each
    lines.append(compared("sft, published padding", rounds, partial(sft, True), slow))
    return [
        *lines,
        "",
        f"waiting for rows after the first epoch: {statistics.median(shares):.1%} of a step",
    ]


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--steps", type=int, default=12, help="of each run (default: 12)")
    options.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="of the recipe tiny; repeat",
    )
    given = options.parse_args()
    recipe = load_recipe("tiny", ["prepare.scale=0.25", "threads=1", *given.set])
    print(
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, no GPU, load average"
        f" {os.getloadavg()[0]:.2f} before"
    )
    with tempfile.TemporaryDirectory() as name:
        print("\n".join(table(recipe, given.rounds, given.steps, Path(name))))
    print(f"load average {os.getloadavg()[0]:.2f} after")


if __name__ == "__main__":
    main()
