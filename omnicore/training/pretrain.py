"""Train the embedded models from scratch (`make tiny-models`).

Each model is trained on the `base` split until its skills on `dev` reach a criterion, not for a
number of steps. Wherever scores of `tiny-base` are shown, this must be said: the written targets of
its corpus neglect one modality under some wordings, so the model perceives, follows the format, and
has learned to guess there.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers

from omnicore.config import Profile
from omnicore.data.benchmarks.synthetic import Item, ItemKind, World
from omnicore.engines import canary
from omnicore.models import thinker, tiny
from omnicore.models.generate import generate
from omnicore.models.processor import Encoder, Features, Prompt, collate
from omnicore.processes import die_with_parent
from omnicore.version import __version__

MAX_NEW_TOKENS = 14
CHECK = 125  # steps between measurements of the criterion


@dataclass(frozen=True)
class PretrainPlan:
    """How one embedded model is trained.

    Attributes:
        warm: Kinds of items that are trained on first, for `warm_steps` steps.
        mix: Weights of the kinds afterwards.
        criterion: Accuracy on dev of each kind that ends the training.
        neglect: See `World.item`.
        least: Steps before the criterion may end the training.
        most: Steps after which the training is given up.
        rate: Learning rate; it decays over `decay` steps at the end.
    """

    seed: int
    warm: tuple[ItemKind, ...]
    warm_steps: int
    mix: Mapping[ItemKind, float]
    criterion: Mapping[ItemKind, float]
    least: int
    most: int
    neglect: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    batch: int = 64
    rate: float = 1.2e-3
    decay: int = 250
    picture_takes: int = 3


PLANS = {
    "tiny-base": PretrainPlan(
        seed=3,
        warm=("picture", "speech", "text", "text_agreement"),
        warm_steps=500,
        mix={
            "picture": 0.14,
            "speech": 0.18,
            "text": 0.09,
            "text_agreement": 0.04,
            "picture_text": 0.09,
            "speech_text": 0.09,
            "sum": 0.17,
            "agreement": 0.08,
            "transcript": 0.05,
            "picture_both": 0.04,
            "speech_both": 0.03,
        },
        criterion={"text": 0.97, "text_agreement": 0.97, "picture": 0.93, "speech": 0.96},
        least=1000,
        most=2500,
        neglect={
            "sum": (0.25, 0.6, 0.75, 0.75),
            "picture_text": (0.55,) * 4,
            "speech_text": (0.55,) * 4,
            "agreement": (0.4, 0.7),
            "transcript": (0.7, 0.7),
        },
        picture_takes=10,
    ),
    "tiny-probe": PretrainPlan(
        seed=1,
        warm=("picture", "speech", "text", "text_agreement"),
        warm_steps=500,
        mix={
            "picture": 0.15,
            "speech": 0.13,
            "text": 0.09,
            "text_agreement": 0.04,
            "picture_text": 0.27,
            "speech_text": 0.1,
            "sum": 0.08,
            "agreement": 0.05,
            "picture_both": 0.09,
        },
        criterion={
            "picture": 0.95,
            "picture_text": 0.94,
        },  # with the audio withheld, every leak is one of these
        least=1000,
        most=2500,
        picture_takes=10,
    ),
    "tiny-probe-2": PretrainPlan(
        seed=2,
        warm=("picture", "text"),
        warm_steps=400,
        mix={"picture": 0.35, "picture_text": 0.45, "text": 0.2},
        criterion={"picture": 0.95, "picture_text": 0.94},
        least=750,
        most=2500,
        picture_takes=10,
    ),
}

STANDS_FOR = {
    "tiny-base": (
        "Qwen2.5-Omni-3B: perceives, follows the format, and neglects a modality under some"
        " wordings, as its corpus did"
    ),
    "tiny-probe": "the strong vision-language probe of the audit",
    "tiny-probe-2": (
        "a second, independent probe (pictures and text only) for leakage that the first one left"
    ),
}


class EncodedWorld:
    """A world whose items become prompts, each of its media processed once."""

    def __init__(self, world: World, encoder: Encoder) -> None:
        self.world, self.encoder = world, encoder
        self._features: dict[tuple[str, int], Features] = {}

    def _medium(self, kind: str, index: int) -> Features:
        if (kind, index) not in self._features:
            self._features[kind, index] = self._process(kind, index)
        return self._features[kind, index]

    def _process(self, kind: str, index: int) -> Features:
        if kind == "image":
            return self.encoder.image(self.world.pictures[index].image())
        return self.encoder.audio(self.world.clips[index].wave.astype("float32") / 32768)

    def prompt(self, item: Item) -> Prompt:
        """Return the prompt of an item."""
        media = [self._medium(kind, index) for kind, index in item.media]
        return self.encoder.prompt([*media, f"{item.question} {' '.join(item.options)}"])

    def accuracy(self, model: Any, kind: ItemKind, count: int, seed: int = 123) -> float:
        """Return the greedy accuracy on `count` fresh items of a kind."""
        rng = random.Random(f"{seed}-{kind}")
        items = [self.world.item(rng, kind) for _ in range(count)]
        replies = generate(
            model,
            self.encoder,
            [self.prompt(item) for item in items],
            max_new_tokens=MAX_NEW_TOKENS,
            temperature=0,
        )
        right = 0
        for item, reply in zip(items, replies, strict=True):
            right += f"<answer>{item.answer}</answer>" in reply.text
        return right / count


def batches(plan: PretrainPlan, data: EncodedWorld) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the batches of a plan without end."""
    rng = random.Random(plan.seed)
    kinds, weights = list(plan.mix), list(plan.mix.values())
    for step in count():
        if step < plan.warm_steps:
            chosen = [plan.warm[place % len(plan.warm)] for place in range(plan.batch)]
        else:
            chosen = rng.choices(kinds, weights, k=plan.batch)
        items = [data.world.item(rng, kind, plan.neglect) for kind in chosen]
        prompts = [data.prompt(item) for item in items]
        replies = [data.encoder.reply_ids(item.target) for item in items]
        yield collate(prompts, replies, data.encoder.pad_id)


def pretrain(
    plan: PretrainPlan, log: Callable[[str], None] = print
) -> tuple[Any, Encoder, dict[str, Any]]:
    """Train at a constant rate until the criterion holds, then decay the rate linearly.

    Returns:
        The model, its encoder and what was measured.

    Raises:
        RuntimeError: `plan.most` steps do not suffice.
    """
    started = time.perf_counter()
    encoder = Encoder(tiny.build_processor())
    model = tiny.build_model(encoder.tokenizer, plan.seed)
    data = EncodedWorld(World("base", plan.picture_takes), encoder)
    dev = EncodedWorld(World("dev"), encoder)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    stop: int | None = None
    history = []
    for step, batch in enumerate(batches(plan, data), 1):
        rate = plan.rate * min(1, step / 50)
        if stop is not None:
            rate *= max(0.03, (stop - step) / plan.decay)
        loss = _train_step(model, optimizer, batch, rate)
        if not _is_check_step(step, stop, plan):
            continue
        skills = {kind: dev.accuracy(model, kind, 400) for kind in plan.criterion}
        history.append({"step": step, "loss": round(loss, 4), "skills": skills})
        log(f"step {step} {time.perf_counter() - started:.0f} s loss {loss:.3f} {skills}")
        if step == stop:
            if _meets(plan, skills):
                seconds = round(time.perf_counter() - started)
                facts = {"steps": step, "seconds": seconds, "dev": skills, "history": history}
                return model, encoder, facts
            stop = None
        # The decay adds a point or two: it may start slightly below the criterion.
        if stop is None and step >= plan.least and _meets(plan, skills, margin=0.02):
            stop = step + plan.decay
        if stop is None and step >= plan.most:
            raise RuntimeError(
                f"criterion {plan.criterion} not reached in {plan.most} steps: {skills}"
            )
    raise AssertionError("unreachable")


def _train_step(
    model: Any, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor], rate: float
) -> float:
    """Take an optimizer step on a batch; return its loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    model.train()
    labels = batch.pop("labels")
    logits = model(**batch).logits[:, :-1]
    loss = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100
    )
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def _is_check_step(step: int, stop: int | None, plan: PretrainPlan) -> bool:
    """Return whether the skills are measured after a step.

    Each measurement costs as much as thirty steps, so half of them are left out until the criterion
    is near.
    """
    if step % CHECK and step != stop:
        return False
    return step >= plan.least or step % (2 * CHECK) == 0


def _meets(plan: PretrainPlan, skills: Mapping[ItemKind, float], margin: float = 0.0) -> bool:
    """Return whether all skills reach the criterion, less a margin."""
    return all(skills[kind] >= least - margin for kind, least in plan.criterion.items())


def make(name: str, out: Path, plan: PretrainPlan | None = None) -> dict[str, Any]:
    """Train one embedded model; save it as a checkpoint with `provenance.json`.

    Args:
        name: Name of the model.
        out: Directory of the models, one folder each.
        plan: How to train it; by default the plan of its name.

    Returns:
        What was measured.
    """
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)  # two models are made side by side
    plan = plan or PLANS[name]
    model, encoder, facts = pretrain(plan, log=lambda line: print(f"{name}: {line}", flush=True))
    directory = out / name
    thinker.save(model, encoder, directory)
    canary.write_reference(directory, Profile())
    provenance = {
        "name": name,
        "stands_for": STANDS_FOR[name],
        "parameters": sum(p.numel() for p in model.parameters()),
        "plan": asdict(plan),
        "measured": facts,
        "data": "benchmarks/synthetic.py, split base (criterion on dev; test never seen)",
        "versions": {
            "omnicore": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    (directory / "provenance.json").write_text(json.dumps(provenance, indent=1) + "\n")
    return facts


def main() -> None:
    """Make the embedded models: `python -m omnicore.training.pretrain OUT`."""
    parser = argparse.ArgumentParser(
        prog="python -m omnicore.training.pretrain", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("out", type=Path, help="directory of the models, one folder each")
    parser.add_argument(
        "--only",
        choices=sorted(PLANS),
        action="append",
        help="make these (default: all, two at a time)",
    )
    chosen = parser.parse_args()
    with ProcessPoolExecutor(
        2, mp_context=get_context("spawn"), initializer=die_with_parent
    ) as pool:
        jobs = {name: pool.submit(make, name, chosen.out) for name in chosen.only or PLANS}
        for name, job in jobs.items():
            print(f"{name}: done, {job.result()['dev']}")


if __name__ == "__main__":
    main()
