"""RLVR: TRL's GRPOTrainer, made to carry sound, and to train on groups that teach something.

TRL 1.16 knows no audio: a stock trainer fed with sound generates with it (or fails) and then trains
on a forward pass without it. The subclass keeps each sample's media beside it through shuffling and
splitting, and gives them to every forward pass. It overrides private methods, so the minor version
is pinned and tests hold the behaviour.

Groups whose rollouts are all right or all wrong (raw correctness, never a shaped reward) have no
advantage and are left out of the forward and backward pass; further prompts take their place for
`refill` rounds, as in DAPO, and the loss is normalised over what remains, on all processes and in
all micro-batches together.

Nothing of this lasts from one step to the next but the weights: order of rows, further prompts and
sampling are functions of (seed, step), and the coin of a control arm is saved with the checkpoint.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from trl.models import prepare_deepspeed, unwrap_model_for_generation
from trl.trainer.utils import add_fused_lm_head

from omnicore import distributed, processes
from omnicore.config import Profile, RlvrConfig, digest
from omnicore.engines.canary import media_kinds
from omnicore.errors import TrainingError
from omnicore.models.generate import BatchSlice
from omnicore.models.processor import Encoder, Features, media_tensors
from omnicore.schema import Query
from omnicore.training import finite, parallel, startup, trainable_modules
from omnicore.training.checkpoints import Checkpoints, Resumable
from omnicore.training.curves import CurveCallback, GradientCheck, Log
from omnicore.training.groups import Group, Rollout, RolloutStats, collect_groups
from omnicore.training.mixture import Mixture, RowOrder, modality
from omnicore.training.rewards import RandomReward, compute_reward
from omnicore.training.rollouts import RolloutEngine, TransformersRollouts
from omnicore.training.rows import TrainingRow
from omnicore.training.sft import OPTIMIZER, PLAIN

TOWERS = {"audio": "audio_tower", "image": "visual", "video": "visual"}
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
    """GRPOTrainer whose dataset has a column `index` into `rows`.

    A process' share of a step is whole groups.
    """

    def __init__(
        self,
        model: Any,
        args: GRPOConfig,
        *,
        rows: Sequence[TrainingRow],
        mixture: Mixture,
        config: RlvrConfig,
        profile: Profile,
        encoder: Encoder,
        engine: RolloutEngine,
        journal: Log,
        **kwargs: Any,
    ) -> None:
        self.rows, self.config, self.profile, self.encoder, self.engine = (
            rows,
            config,
            profile,
            encoder,
            engine,
        )
        self._mixture, self._taken = mixture, set[int]()  # rows of this step, on all processes
        self.book, self._journal = (
            RolloutStats(config.num_generations, config.prompts_per_step),
            journal,
        )
        self.coin: RandomReward | None = None
        self._chosen: list[Rollout] = []
        self._media: list[tuple[Features, ...]] = []
        self._scored: Any = None  # log-probs and entropies of the last forward pass
        # TRL would build the reference from the name of the model's directory, by a class that is not the thinker's.
        # It is the start model, also where the training goes on from a checkpoint; under LoRA, the model without its adapter.
        reference = copy.deepcopy(model) if config.beta and not kwargs.get("peft_config") else None
        super().__init__(model, self._rewards, args, processing_class=encoder.tokenizer, **kwargs)
        self.beta = config.beta
        if reference is not None:
            add_fused_lm_head(reference, temperature=self.temperature)
            if config.parallel == "zero3":
                self.ref_model = prepare_deepspeed(reference, self.accelerator)
            else:
                self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)
        if config.control == "random_reward":
            self.coin = RandomReward(args.seed)

    def can_checkpoint(self) -> bool:
        """Rollouts are not saved: none may be left that a later step trains on.

        Then TRL's count of them may begin anew.
        """
        return bool(self._step % (self.args.steps_per_generation * self.num_iterations) == 0)

    def load_engine(self) -> None:
        """Wakes the rollout engine and gives it the policy's weights."""
        self.engine.wake()
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
        ) as model:
            self.engine.load(model)
        self.accelerator.wait_for_everyone()

    def _roll(self, indices: Sequence[int], turn: int) -> list[Group]:
        """Generates and judges a group for each of the rows."""
        rows, n = [self.rows[i] for i in indices], self.config.num_generations
        # What is drawn for a row is the same on however many processes a batch is shared out.
        seed = int(digest(["rollouts", self._key(turn)])[:12], 16)
        part = _part(len(rows))
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
        ):
            samples = (
                self.engine.generate(
                    rows, n, temperature=self.config.temperature, seed=seed, part=part
                )
                if rows
                else []
            )
        flips = [self.coin.draw() for _ in range(part[1] * n)][part[0] * n :] if self.coin else []
        if not rows:
            return []
        texts = self.encoder.text([list(sample.ids) for sample in samples])
        prompts = [row.prompt for row in rows]
        rollouts = []
        for place, (sample, text) in enumerate(zip(samples, texts, strict=True)):
            row = rows[place // n]
            judged = compute_reward(text, sample.truncated, row.query, self.profile)
            paid, right = (
                judged.score + self.config.format_reward_weight * judged.format,
                judged.right,
            )
            if flips:
                paid = right = flips[place]
            rollouts.append(Rollout(row, prompts[place // n], sample, text, judged, paid, right))
        return [rollouts[i : i + n] for i in range(0, len(rollouts), n)]

    def _further(self, missing: int, turn: int) -> list[int] | None:
        # None where another process misses some: gathering sharded weights needs all of them.
        first, every = _part(missing)
        if not every:
            return None
        drawn = self._mixture.resample(every, self._taken, self._key(turn))
        self._taken.update(drawn)
        return drawn[first : first + missing]

    def _key(self, turn: int) -> str:
        return (  # the 0 is in what docs/seeds.md was drawn with
            f"{self.args.seed}|{self.state.global_step}|{turn}|0"
        )

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        first = [row["index"] for row in inputs[:: self.config.num_generations]]
        self._taken = {index for part in distributed.all_gather(first) for index in part}
        self.load_engine()
        groups = collect_groups(first, self.config.dynamic_sampling, self._roll, self._further)
        self.accelerator.wait_for_everyone()
        self.engine.sleep()
        # The useful ones first; a batch that could not be filled carries useless ones, which the loss leaves out.
        ordered = sorted(groups, key=lambda group: not group[0].used)[: len(first)]
        self._chosen = [rollout for group in ordered for rollout in group]
        out = super()._generate_and_score_completions(inputs[:1] * len(self._chosen))
        if "sampling_per_token_logps" in out:
            # Of an engine of its own: the policy that acted is the one whose ratio is clipped.
            out["old_per_token_logps"] = out.pop("sampling_per_token_logps")
        out["useful"] = torch.tensor(
            [rollout.used for rollout in self._chosen], device=out["advantages"].device
        )
        for rollout, advantage in zip(self._chosen, out["advantages"].tolist(), strict=True):
            rollout.advantage = advantage if rollout.used else 0.0
        counted = torch.stack([out["useful"].sum(), out["completion_mask"][out["useful"]].sum()])
        out["useful_total"], out["num_items_in_batch"] = self.accelerator.gather(counted[None]).sum(
            0
        )
        # Lists, which TRL's shuffling and splitting slice by sample. Tensors of unlike samples could not be split.
        out["media"] = self._media
        out["query"] = [rollout.row.query for rollout in self._chosen]
        seen = gather_object(
            [rollout.record(self.state.global_step) for group in groups for rollout in group]
        )
        self.book.generated(seen)
        for record in seen:
            self._journal(record)
        return out

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(self.train_dataset.column_names)

    def _tokenize_prompts(self, prompts: Any) -> Any:
        chosen = [rollout.prompt for rollout in self._chosen]
        self._media = [prompt.media for prompt in chosen]
        # images=None: TRL's own image path, which would call the processor without sound, stays off.
        return [prompt.ids for prompt in chosen], None, {}

    def _generate_single_turn(self, *_: Any, **__: Any) -> Any:
        """What was generated already."""
        logprobs = [list(rollout.sample.logprobs) for rollout in self._chosen]
        return [list(rollout.sample.ids) for rollout in self._chosen], (
            logprobs if any(logprobs) else None
        )

    def _rewards(self, completions: Any, **_: Any) -> list[float]:
        return [rollout.reward for rollout in self._chosen]

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: Any,
        batch_size: Any = None,
        **kwargs: Any,
    ) -> Any:
        size = batch_size or len(input_ids)
        known = {k: v for k, v in kwargs.items() if k in ("compute_entropy", "compute_aux_loss")}
        parts = []
        for start in range(0, len(input_ids), size):
            rows = slice(start, start + size)
            media = media_tensors(
                [f for sample in self._media[rows] for f in sample], input_ids.device
            )
            forward = functools.partial(model, **media)
            parts.append(
                super()._get_per_token_logps_and_entropies(
                    forward, input_ids[rows], attention_mask[rows], logits_to_keep, **known
                )
            )
        logps, entropies, _ = zip(*parts, strict=True)
        self._scored = (
            torch.cat(logps),
            (torch.cat(entropies) if entropies[0] is not None else None),
            None,
        )
        return self._scored

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        useful = inputs["useful"]
        # As many on each process, and one at least: TRL gathers a figure of each, and a batch without any still needs a graph.
        most = max(1, int(self.accelerator.gather(useful.sum()).max()))
        keep = torch.sort(useful.int(), descending=True, stable=True).indices[:most].sort().values
        chosen = dict(inputs)
        for name in _PER_ROLLOUT:
            if isinstance(inputs.get(name), torch.Tensor):
                chosen[name] = inputs[name][keep]
        chosen["completion_mask"] = (
            chosen["completion_mask"] * useful[keep, None]
        )  # those that are not useful weigh nothing
        self._media = [inputs["media"][i] for i in keep.tolist()]
        loss = super()._compute_loss(model, chosen)
        self._measure(chosen, [inputs["query"][i] for i in keep.tolist()])
        if self.loss_type == "dapo":
            return loss  # normalised by the tokens of all useful rollouts already
        # The others take means: of all useful rollouts, not of those that happen to lie in a micro-batch.
        parts = self.args.gradient_accumulation_steps * self.accelerator.num_processes
        return loss * (len(keep) * parts / inputs["useful_total"].clamp(min=1))

    def _measure(self, inputs: Any, queries: Sequence[Query]) -> None:
        logps, entropies, _ = self._scored
        mask = inputs["completion_mask"]
        finite.check_rows((logps.detach() * mask).sum(1).tolist(), queries, self.state.global_step)
        found = {"entropy": entropies.detach()}
        if self.beta:
            apart = inputs["ref_per_token_logps"] - logps.detach()
            found["kl"] = apart.exp() - apart - 1
        if "old_per_token_logps" in inputs and self.num_iterations == 1:
            found["logprob_gap"] = (inputs["old_per_token_logps"] - logps.detach()).abs()
            gap = float((found["logprob_gap"] * mask).sum() / mask.sum().clamp(min=1))
            if not gap <= self.config.max_logprob_gap:
                raise TrainingError(
                    f"at step {self.state.global_step} the rollout engine is {gap:.3g} nats a token"
                    " off the policy, more than"
                    f" rlvr.max_logprob_gap={self.config.max_logprob_gap:g}: it generates with"
                    " other weights than those that train"
                )
        sums = {name: (values * mask).sum(1).tolist() for name, values in found.items()}
        for place, (query, tokens) in enumerate(zip(queries, mask.sum(1).tolist(), strict=True)):
            if tokens:
                self.book.measured.append(
                    (
                        modality(query),
                        {figure: each[place] for figure, each in sums.items()},
                        tokens,
                    )
                )

    def figures(self, record: dict[str, Any]) -> dict[str, Any]:
        """Adds what the rollouts of a step were to its record.

        Called on all processes.
        """
        measured, self.book.measured = gather_object(self.book.measured), []
        return {**record, **self.book.figures(measured)}


def train(
    model: Any,
    encoder: Encoder,
    rows: Sequence[TrainingRow],
    config: RlvrConfig,
    profile: Profile,
    *,
    seed: int,
    log: Log,
    journal: Log,
    checkpoints: Checkpoints | None = None,
    trackers: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Trains `model` in place, from the newest of its checkpoints on.

    `log` gets one record a step, `journal` one a rollout.     Returns what the start-up checks
    measured. Raises TrainingError when one of them fails, when a tower that trains gets no
    gradient, or a loss, gradient or weight is not finite.
    """
    drawn = Mixture(
        [row.query for row in rows],
        [row.tokens for row in rows],
        config.mixture,
        batch=config.prompts_per_step,
        steps=-(-config.steps // config.num_iterations),
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as scratch:
        args = GRPOConfig(
            output_dir=scratch,
            num_generations=config.num_generations,
            max_completion_length=profile.max_new_tokens,
            max_steps=config.steps,
            learning_rate=config.learning_rate,
            lr_scheduler_type="linear",  # at a constant rate the last few batches decide where a run of this length ends
            warmup_steps=config.warmup_steps,
            loss_type="grpo" if config.loss_type == "gspo" else config.loss_type,
            importance_sampling_level="sequence" if config.loss_type == "gspo" else "token",
            num_iterations=config.num_iterations,
            temperature=config.temperature,
            seed=seed,
            shuffle_dataset=False,  # the mixture has its own order
            **parallel.batch_arguments(
                config,
                distributed.per_process(config.prompts_per_step, "prompts_per_step")
                * config.num_generations,
            ),
            **OPTIMIZER,
            **{**PLAIN, **(trackers or {}), **trainable_modules.precision_arguments(config)},
        )
        trainer = OmniGRPOTrainer(
            model,
            args,
            rows=rows,
            mixture=drawn,
            config=config,
            profile=profile,
            encoder=encoder,
            engine=_engine(encoder, config, profile, Path(scratch)),
            journal=journal,
            checkpoints=checkpoints,
            peft_config=trainable_modules.freeze_modules(model, config),
            # What TRL takes for the prompt is never shown: the rows hold the prompts.
            train_dataset=Dataset.from_list(
                [
                    {"prompt": [{"role": "user", "content": "?"}], "index": i}
                    for i in RowOrder(drawn)
                ]
            ),
        )
        if trainer.is_deepspeed_enabled:
            trainer.add_callback(parallel.RunBothEncoders())
        check = GradientCheck(_training_towers(trainer.model, rows))
        trainer.add_callback(check)
        trainer.states |= {"gradients": check, **({"coin": trainer.coin} if trainer.coin else {})}
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(finite.FiniteCheck())
        trainer.add_callback(CurveCallback(log, trainer.figures))
        trainer.load_engine()
        # After the weights were handed over: an engine that cannot take them is found here.
        with parallel.before_sharding(args):
            gap = startup.check_engine(
                trainer,
                trainer.engine,
                rows,
                encoder.pad_id,
                config.temperature,
                config.max_logprob_gap,
            )
        trainer.resume()
        parallel.gather_weights(trainer.model)
        if processes.is_main():
            trainable_modules.merge_adapters(trainer.model)
        return {"logprob_gap": round(gap, 6)}


def _part(count: int) -> BatchSlice:
    """Where this process' `count` rows begin among those of all processes, and how many those are
    together."""
    counts = distributed.all_gather(count)
    return sum(counts[: processes.rank()]), sum(counts)


def _engine(encoder: Encoder, config: RlvrConfig, profile: Profile, scratch: Path) -> RolloutEngine:
    if config.rollout_engine == "transformers":
        return TransformersRollouts(encoder, profile.max_new_tokens)
    from omnicore.training.vllm import VllmRollouts  # aiohttp is asked for by no other training

    return VllmRollouts(config, profile, encoder, scratch)


def _training_towers(model: Any, rows: Sequence[TrainingRow]) -> dict[str, str]:
    """The towers that must get a gradient: those that train, of media that are shown."""
    kinds = media_kinds(row.request for row in rows)
    alive = [name for name, p in model.named_parameters() if p.requires_grad]
    return {
        kind: tower
        for kind, tower in TOWERS.items()
        if kind in kinds and any(tower in name for name in alive)
    }
