"""RLVR: TRL's GRPOTrainer, made to carry sound.

TRL 1.16 knows no audio: a stock trainer fed with sound generates with it (or fails) and then trains on a forward pass
without it. The subclass keeps each sample's media beside it through shuffling and splitting, and gives them to every
forward pass. It overrides private methods, so the minor version is pinned and tests hold the behaviour.

Groups whose rollouts are all right or all wrong (raw correctness, never a shaped reward) have no advantage and are left
out of the forward and backward pass; the loss is normalised over the tokens that remain, as in DAPO.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from omnicore.config import Profile, RlvrConfig
from omnicore.models.processor import Encoder, Features, media_tensors
from omnicore.schema import Outcome
from omnicore.training.checkpoints import Checkpoints, Resumable
from omnicore.training.curves import Curve, GradientCheck, Log
from omnicore.training.rewards import Coin, outcome
from omnicore.training.rows import Row
from omnicore.training.sft import OPTIMIZER, PLAIN

TOWERS = {"audio": "audio_tower", "image": "visual"}
_PER_ROLLOUT = (
    "prompt_ids",
    "prompt_mask",
    "completion_ids",
    "completion_mask",
    "advantages",
    "old_per_token_logps",
    "ref_per_token_logps",
)


class OmniGRPOTrainer(Resumable, GRPOTrainer):  # type: ignore[misc]
    """GRPOTrainer whose dataset has a column `index` into `rows`."""

    def __init__(self, model: Any, *, rows: Sequence[Row], beta: float, **kwargs: Any) -> None:
        self._rows = rows
        self._media: list[tuple[Features, ...]] = []
        # TRL would load the reference by the name of the model's directory, as a class that is not the thinker's. It is the start
        # model, also where the training goes on from a checkpoint.
        reference = copy.deepcopy(model) if beta else None
        super().__init__(model, **kwargs)
        self.beta = beta
        if reference is not None:
            add_fused_lm_head(reference, temperature=self.temperature)
            self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)

    def at_rest(self) -> bool:
        """Rollouts are not saved: none may be left that a later step trains on. Then TRL's count of them may begin anew."""
        return bool(self._step % (self.args.steps_per_generation * self.num_iterations) == 0)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(self.train_dataset.column_names)

    def _tokenize_prompts(self, prompts: Any) -> Any:  # noqa: ARG002 - the rows hold the prompts, with their media
        chosen = [self._rows[i].prompt for i in self._indices]
        self._media = [p.media for p in chosen]
        # images=None: TRL's own image path, which would call the processor without sound, stays off.
        return [p.ids for p in chosen], None, media_tensors([f for media in self._media for f in media])

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self._indices = [row["index"] for row in inputs]
        out = super()._generate_and_score_completions(inputs)
        # A list, which TRL's shuffling and splitting slice by sample. Tensors of unlike samples could not be split.
        out["media"] = self._media
        return out

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: Any, batch_size: Any = None, **kwargs: Any
    ) -> Any:
        size = batch_size or len(input_ids)
        known = {k: v for k, v in kwargs.items() if k in ("compute_entropy", "compute_aux_loss")}
        parts = []
        for start in range(0, len(input_ids), size):
            rows = slice(start, start + size)
            media = media_tensors([f for sample in self._media[rows] for f in sample])
            forward = functools.partial(model, **media)
            parts.append(
                super()._get_per_token_logps_and_entropies(forward, input_ids[rows], attention_mask[rows], logits_to_keep, **known)
            )
        logps, entropies, _ = zip(*parts, strict=True)
        return torch.cat(logps), (torch.cat(entropies) if entropies[0] is not None else None), None

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        useful = inputs["advantages"].abs() > 1e-6
        if not useful.any():
            useful[0] = True  # a batch without any useful group still needs a graph; its advantage of 0 moves nothing
        keep = useful.nonzero().flatten()
        chosen = dict(inputs)
        for name in _PER_ROLLOUT:
            if isinstance(inputs.get(name), torch.Tensor):
                chosen[name] = inputs[name][keep]
        self._media = [inputs["media"][i] for i in keep.tolist()]
        chosen["num_items_in_batch"] = chosen["completion_mask"].sum()
        return super()._compute_loss(model, chosen)


class Rollouts:
    """The reward function, and the book of what it saw since the last logged step."""

    def __init__(
        self, rows: Sequence[Row], config: RlvrConfig, profile: Profile, seed: int, journal: Callable[[dict[str, Any]], None]
    ) -> None:
        self.__name__ = "correct" if config.control == "none" else config.control
        self._rows, self._config, self._profile, self._journal = rows, config, profile, journal
        self.coin = Coin(seed) if config.control == "random_reward" else None
        self._seen: list[tuple[str, Outcome]] = []

    def __call__(self, completions: Any, index: list[int], trainer_state: Any, **_: Any) -> list[float]:
        rewards = []
        for completion, i in zip(completions, index, strict=True):
            query = self._rows[i].query
            reply = completion[0]["content"].strip()
            judged = outcome(reply, query, self._profile)
            reward = self.coin.flip() if self.coin else float(judged is Outcome.correct)
            self._seen.append((query.type, judged))
            rewards.append(reward)
            self._journal(
                {
                    "step": trainer_state.global_step,
                    "id": query.id,
                    "type": query.type,
                    "reply": reply,
                    "outcome": judged,
                    "reward": reward,
                }
            )
        return rewards

    def record(self, record: dict[str, Any]) -> dict[str, Any]:
        """Adds raw correctness of groups, overall and by query type, to a step's record."""
        group = self._config.group
        groups = [self._seen[i : i + group] for i in range(0, len(self._seen), group)]
        self._seen = []
        by_type = defaultdict(list)
        for members in groups:
            by_type[members[0][0]].append(members)
        return {**record, **_shares(groups), "by_type": {name: _shares(part) for name, part in sorted(by_type.items())}}


def _shares(groups: Sequence[Sequence[tuple[str, Outcome]]]) -> dict[str, float]:
    outcomes = Counter(judged for members in groups for _, judged in members)
    total = max(1, outcomes.total())
    right = [sum(judged is Outcome.correct for _, judged in members) for members in groups]
    count = max(1, len(groups))
    return {
        "correct": round(outcomes[Outcome.correct] / total, 5),
        "no_answer": round(outcomes[Outcome.no_answer] / total, 5),
        "all_right": round(sum(r == len(m) for r, m in zip(right, groups, strict=True)) / count, 5),
        "all_wrong": round(sum(r == 0 for r in right) / count, 5),
    }


def train(
    model: Any,
    encoder: Encoder,
    rows: Sequence[Row],
    config: RlvrConfig,
    profile: Profile,
    *,
    seed: int,
    log: Log,
    journal: Log,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Trains `model` in place, from the newest of its checkpoints on. `log` gets one record a step, `journal` one a rollout.

    Raises TrainingError when a tower gets no gradient or the loss is not finite.
    """
    rollouts = Rollouts(rows, config, profile, seed, journal)
    with tempfile.TemporaryDirectory() as scratch:
        args = GRPOConfig(
            output_dir=scratch,
            per_device_train_batch_size=config.prompts * config.group,
            gradient_accumulation_steps=1,
            num_generations=config.group,
            max_completion_length=profile.max_new_tokens,
            max_steps=config.steps,
            learning_rate=config.rate,
            lr_scheduler_type="linear",  # at a constant rate the last few batches decide where a run of this length ends
            warmup_steps=config.warmup,
            loss_type=config.loss,
            temperature=config.temperature,
            seed=seed,
            shuffle_dataset=False,  # `prepare` has shuffled the mixture
            use_cpu=not torch.cuda.is_available(),
            generation_kwargs={"suppress_tokens": encoder.suppressed},
            **OPTIMIZER,
            **PLAIN,
        )
        trainer = OmniGRPOTrainer(
            model=model,
            args=args,
            rows=rows,
            beta=config.beta,
            checkpoints=checkpoints,
            train_dataset=Dataset.from_list(
                [{"prompt": [{"role": "user", "content": r.query.question}], "index": i} for i, r in enumerate(rows)]
            ),
            processing_class=encoder.tokenizer,
            reward_funcs=rollouts,
        )
        kinds = {medium.kind for row in rows for medium in row.query.media}
        check = GradientCheck({kind: tower for kind, tower in TOWERS.items() if kind in kinds})
        trainer.add_callback(check)
        trainer.states |= {"gradients": check, **({"coin": rollouts.coin} if rollouts.coin else {})}
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Curve(log, rollouts.record))
        trainer.go_on()
