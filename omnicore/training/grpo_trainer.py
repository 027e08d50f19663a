"""TRL's GRPOTrainer with sound, dynamic sampling and a loss over the useful rollouts.

TRL 1.16 knows no audio: a stock trainer that is fed with sound generates with it (or fails) and
then trains on a forward pass without it. This subclass generates the rollouts itself, hands them
to TRL by `rollout_func`, keeps each rollout beside its tensors through shuffling and splitting,
and gives its media to every forward pass.

Groups whose rollouts are all right or all wrong (by correctness, never by a shaped reward) have no
advantage and are left out of the forward and backward pass. Other prompts take their place for
`dynamic_sampling` rounds, as in DAPO, and the loss is normalised over what remains, on all
processes and in all micro-batches together.

Only the weights last from one step to the next: the order of rows, resampled prompts and sampling
are functions of (seed, step), and the state of a random reward is saved with the checkpoint.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from trl import GRPOConfig, GRPOTrainer
from trl.models import prepare_deepspeed, unwrap_model_for_generation
from trl.trainer.utils import add_fused_lm_head

from omnicore import processes
from omnicore.config import Profile, RlvrConfig, digest
from omnicore.errors import TrainingError
from omnicore.models.generate import BatchSlice
from omnicore.models.processor import Encoder, Prompt, collate
from omnicore.training import distributed, finite
from omnicore.training.curves import Log
from omnicore.training.groups import Group, Measurement, Rollout, RolloutStats, collect_groups
from omnicore.training.media_forward import MediaForward, media_in_forward
from omnicore.training.mixture import Mixture, modality
from omnicore.training.resume import ResumableTrainer
from omnicore.training.rewards import RandomReward, compute_reward
from omnicore.training.rollouts import RolloutEngine, Sample
from omnicore.training.rows import TrainingRow

# Tensors of a batch that have one row a rollout.
_PER_ROLLOUT = (
    "prompt_ids",
    "prompt_mask",
    "completion_ids",
    "completion_mask",
    "advantages",
    "old_per_token_logps",
    "ref_per_token_logps",
)


class OmniGRPOTrainer(ResumableTrainer, GRPOTrainer):  # type: ignore[misc]
    """GRPOTrainer whose dataset has a column `index` into `rows`.

    A process's share of a step is whole groups.
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
        self.rows, self.mixture, self.config, self.profile = rows, mixture, config, profile
        self.encoder, self.engine, self.journal = encoder, engine, journal
        self.stats = RolloutStats(config.num_generations, config.prompts_per_step)
        self.random_reward: RandomReward | None = None
        if config.control == "random_reward":
            self.random_reward = RandomReward(args.seed)
        # TRL would build the reference from the name of the model's directory, by a class that is
        # not the thinker's. It is the start model, also where the training resumes; under LoRA it
        # is the model without its adapter.
        reference = copy.deepcopy(model) if config.beta and not kwargs.get("peft_config") else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
            super().__init__(
                model,
                total_reward,
                args,
                processing_class=encoder.tokenizer,
                rollout_func=replay_rollouts,
                **kwargs,
            )
        self.beta = config.beta
        if reference is not None:
            add_fused_lm_head(reference, temperature=self.temperature)
            if config.parallel == "zero3":
                self.ref_model = prepare_deepspeed(reference, self.accelerator)
            else:
                self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)

    def can_checkpoint(self) -> bool:
        """Return whether no rollout is left that a later step trains on: rollouts are not saved."""
        micro_steps = self.state.global_step * self.args.gradient_accumulation_steps
        return bool(micro_steps % (self.args.steps_per_generation * self.num_iterations) == 0)

    def load_engine(self) -> None:
        """Wake the rollout engine and load the policy's weights into it."""
        self.engine.wake()
        with self._whole_model() as model:
            self.engine.load(model)
        self.accelerator.wait_for_everyone()

    def log_probs(self, prompts: Sequence[Prompt], samples: Sequence[Sample]) -> list[list[float]]:
        """Return the log-probability of each sampled token, by the forward pass of the loss."""
        completions = [list(sample.ids) for sample in samples]
        batch = collate(prompts, completions, self.encoder.pad_id, self.accelerator.device)
        forward = MediaForward(self.model, [prompt.media for prompt in prompts])
        longest = max(len(ids) for ids in completions)
        with torch.no_grad():
            scores = self._get_per_token_logps_and_entropies(
                forward, batch["input_ids"], batch["attention_mask"], longest
            )[0]
        return [row[: len(ids)] for row, ids in zip(scores.tolist(), completions, strict=True)]

    def step_stats(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return a step's record with the statistics of its rollouts; call it on all processes."""
        measured, self.stats.measured = gather_object(self.stats.measured), []
        return record | self.stats.summarize(measured)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """Generate groups, let TRL compute advantages, and add the rollouts to the batch.

        Args:
            inputs: Dataset rows, each repeated `num_generations` times.

        Returns:
            TRL's batch with `useful` [rollouts], `useful_total`, and the list `rollout`, which
            TRL's shuffling and splitting slice by sample.
        """
        indices = [row["index"] for row in inputs[:: self.config.num_generations]]
        groups = self._generate_groups(indices)
        # Groups that are used come first. A batch that dynamic sampling could not fill carries
        # others, which the loss leaves out.
        ordered = sorted(groups, key=lambda group: not group[0].used)[: len(indices)]
        rollouts = [rollout for group in ordered for rollout in group]
        models = [model for model in (self.model, self.ref_model) if model is not None]
        with media_in_forward(models, [rollout.prompt.media for rollout in rollouts]):
            batch = super()._generate_and_score_completions(list(map(as_trl_row, rollouts)))
        if "sampling_per_token_logps" in batch:
            # Of a separate engine: the policy that acted is the one whose ratio is clipped.
            batch["old_per_token_logps"] = batch.pop("sampling_per_token_logps")
        advantages = batch["advantages"]
        for rollout, advantage in zip(rollouts, advantages.tolist(), strict=True):
            rollout.advantage = advantage if rollout.used else 0.0
        useful = torch.tensor([rollout.used for rollout in rollouts], device=advantages.device)
        counts = torch.stack([useful.sum(), batch["completion_mask"][useful].sum()])
        useful_total, tokens_total = self.accelerator.gather(counts[None]).sum(0)
        batch["useful"], batch["useful_total"] = useful, useful_total
        batch["num_items_in_batch"] = tokens_total
        batch["rollout"] = rollouts
        step = self.state.global_step
        records = gather_object([rollout.record(step) for group in groups for rollout in group])
        self.stats.generated(records)
        for record in records:
            self.journal(record)
        return batch

    def _generate_groups(self, indices: Sequence[int]) -> list[Group]:
        """Return groups for the rows `indices` and for those that dynamic sampling adds."""
        taken = {index for share in distributed.all_gather(list(indices)) for index in share}

        def resample_prompts(missing: int, turn: int) -> list[int] | None:
            # None once no process misses any: until then gathering sharded weights needs them all.
            first, total = batch_slice(missing)
            if not total:
                return None
            drawn = self.mixture.resample(total, taken, self._turn_key(turn))
            taken.update(drawn)
            return drawn[first : first + missing]

        self.load_engine()
        rounds = self.config.dynamic_sampling
        groups = collect_groups(indices, rounds, self._generate_round, resample_prompts)
        self.accelerator.wait_for_everyone()
        self.engine.sleep()
        return groups

    def _generate_round(self, indices: Sequence[int], turn: int) -> list[Group]:
        """Generate and judge a group for each of the rows."""
        rows, n = [self.rows[index] for index in indices], self.config.num_generations
        # The same numbers are drawn for a row on however many processes a batch is spread.
        seed = int(digest(["rollouts", self._turn_key(turn)])[:12], 16)
        first, total = share = batch_slice(len(rows))
        samples: list[Sample] = []
        with self._whole_model():
            if rows:
                samples = self.engine.generate(
                    rows,
                    n,
                    temperature=self.config.temperature,
                    seed=seed,
                    batch_slice=share,
                )
        random_rewards: list[float] = []
        if self.random_reward:
            drawn = [self.random_reward.draw() for _ in range(total * n)]
            random_rewards = drawn[first * n :]
        if not rows:
            return []
        texts = self.encoder.text([list(sample.ids) for sample in samples])
        prompts = [row.prompt for row in rows]
        rollouts = []
        for place, (sample, text) in enumerate(zip(samples, texts, strict=True)):
            row = rows[place // n]
            judged = compute_reward(text, sample.truncated, row.query, self.profile)
            reward = judged.score + self.config.format_reward_weight * judged.format
            right = judged.right
            if random_rewards:
                reward = right = random_rewards[place]
            prompt = prompts[place // n]
            rollouts.append(Rollout(row, prompt, sample, text, judged, reward, right))
        return [rollouts[start : start + n] for start in range(0, len(rollouts), n)]

    def _turn_key(self, turn: int) -> str:
        # The last 0 has no meaning; without it the seeds of docs/seeds.md would draw other rows.
        return f"{self.args.seed}|{self.state.global_step}|{turn}|0"

    def _whole_model(self) -> Any:
        """Return a context that yields the unwrapped policy, its sharded weights gathered."""
        return unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
        )

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute TRL's loss over the useful rollouts of a micro-batch, with their media."""
        useful = inputs["useful"]
        # The same number on each process, and at least one: TRL gathers figures of each, and a
        # batch without any useful rollout still needs a graph.
        most = max(1, int(self.accelerator.gather(useful.sum()).max()))
        keep = torch.sort(useful.int(), descending=True, stable=True).indices[:most].sort().values
        chosen = dict(inputs)
        for name in _PER_ROLLOUT:
            if isinstance(inputs.get(name), torch.Tensor):
                chosen[name] = inputs[name][keep]
        # Kept rollouts that are not useful weigh nothing.
        chosen["completion_mask"] = chosen["completion_mask"] * useful[keep, None]
        rollouts = [inputs["rollout"][place] for place in keep.tolist()]
        forward = MediaForward(model, [rollout.prompt.media for rollout in rollouts])
        loss = super().compute_loss(forward, chosen, num_items_in_batch=num_items_in_batch)
        tokens = chosen["completion_ids"].size(1)
        log_probs = forward.output.log_probs[:, -tokens:].detach()
        self._measure(chosen, rollouts, log_probs, forward.output.entropy[:, -tokens:].detach())
        if self.loss_type == "dapo":
            return loss  # normalised by the tokens of all useful rollouts already
        # The others are means over a micro-batch: make them means over all useful rollouts.
        parts = self.args.gradient_accumulation_steps * self.accelerator.num_processes
        return loss * (len(keep) * parts / inputs["useful_total"].clamp(min=1))

    def _measure(
        self,
        inputs: Any,
        rollouts: Sequence[Rollout],
        log_probs: torch.Tensor,
        entropy: torch.Tensor,
    ) -> None:
        """Note entropy, KL and the engine's log-prob gap; raise TrainingError for a bad one.

        Args:
            inputs: The micro-batch of `rollouts`.
            rollouts: The rollouts that were scored.
            log_probs: Of the policy [rollouts, tokens].
            entropy: Of the policy [rollouts, tokens], nats.
        """
        mask, step = inputs["completion_mask"], self.state.global_step
        queries = [rollout.row.query for rollout in rollouts]
        finite.check_rows((log_probs * mask).sum(1).tolist(), queries, step)
        values = {"entropy": entropy}
        if self.beta:
            difference = inputs["ref_per_token_logps"] - log_probs
            values["kl"] = difference.exp() - difference - 1
        if "old_per_token_logps" in inputs and self.num_iterations == 1:
            values["logprob_gap"] = (inputs["old_per_token_logps"] - log_probs).abs()
            gap = float((values["logprob_gap"] * mask).sum() / mask.sum().clamp(min=1))
            if not gap <= self.config.max_logprob_gap:
                raise TrainingError(
                    f"step {step}: the log-probs of rollout engine and policy differ by"
                    f" {gap:.3g} nats a token, more than"
                    f" rlvr.max_logprob_gap={self.config.max_logprob_gap:g}: the engine generates"
                    " with other weights than those that train. Check that it reloads the weights"
                    " of each step",
                    code="rollout-logprob-gap",
                    field="rlvr.max_logprob_gap",
                )
        sums = {name: (each * mask).sum(1).tolist() for name, each in values.items()}
        for place, (query, tokens) in enumerate(zip(queries, mask.sum(1).tolist(), strict=True)):
            if tokens:
                own_sums = {name: each[place] for name, each in sums.items()}
                self.stats.measured.append(Measurement(modality(query), own_sums, tokens))


def batch_slice(count: int) -> BatchSlice:
    """Return where this process's `count` rows begin among all, and the number of all."""
    counts = distributed.all_gather(count)
    return sum(counts[: processes.rank()]), sum(counts)


def as_trl_row(rollout: Rollout) -> dict[str, Any]:
    """Return a row of TRL's input that carries a generated rollout.

    TRL deep-copies and gathers the column `prompt`, so token ids are arrays, and passes the column
    `rollout` to the reward function.
    """
    sample = rollout.sample
    prompt = {
        "prompt_ids": np.asarray(rollout.prompt.ids),
        "completion_ids": np.asarray(sample.ids),
        "logprobs": np.asarray(sample.logprobs),
    }
    return {"prompt": prompt, "rollout": rollout}


def replay_rollouts(prompts: Sequence[dict[str, Any]], _trainer: Any) -> dict[str, Any]:
    """Return rollouts that were generated before, as TRL's `rollout_func`.

    Log-probs are None if the engine gave none: the engine is then the policy itself.
    """
    logprobs = [prompt["logprobs"].tolist() for prompt in prompts]
    return {
        "prompt_ids": [prompt["prompt_ids"].tolist() for prompt in prompts],
        "completion_ids": [prompt["completion_ids"].tolist() for prompt in prompts],
        "logprobs": logprobs if any(logprobs) else None,
    }


def total_reward(*, rollout: Sequence[Rollout], **_: Any) -> list[float]:
    """Return the reward of each rollout, as TRL's reward function."""
    return [one.reward for one in rollout]
