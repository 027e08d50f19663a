"""Fine-tune on written replies: TRL's SFTTrainer with a collator for sound and pictures."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from omnicore import processes
from omnicore.config import SftConfig
from omnicore.errors import DataError
from omnicore.models.processor import Encoder, collate
from omnicore.training import distributed, finite, parallel, trainable_modules
from omnicore.training.checkpoints import Checkpoints
from omnicore.training.curves import CurveCallback, Log
from omnicore.training.mixture import Mixture, RowOrder
from omnicore.training.resume import ResumableTrainer
from omnicore.training.rows import TrainingRow

# Adam's second moment forgets faster than usual: runs are a few dozen steps long.
OPTIMIZER = {"adam_beta1": 0.9, "adam_beta2": 0.98, "weight_decay": 0.0, "max_grad_norm": 1.0}
COMMON_ARGUMENTS: dict[str, Any] = {
    "report_to": [],
    "save_strategy": "no",
    "remove_unused_columns": False,
    "gradient_checkpointing": False,
    "bf16": False,
    "disable_tqdm": True,
    "logging_steps": 1,
    # Otherwise a loss that is not finite is logged as 0.
    "logging_nan_inf_filter": False,
    "dataloader_num_workers": 0,
}


class OmniSFTTrainer(ResumableTrainer, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that notes the loss by query type and the time spent waiting for rows."""

    def __init__(self, *args: Any, rows: Sequence[TrainingRow], **kwargs: Any) -> None:
        self.rows = rows
        self.losses_by_type: dict[str, list[float]] = defaultdict(list)
        self.data_seconds = 0.0
        super().__init__(*args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Return the batches of a step and add up the seconds that they took."""
        began = time.monotonic()
        batches = super().get_batch_samples(*args, **kwargs)
        self.data_seconds += time.monotonic() - began
        return batches

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute TRL's loss; note each row's own.

        Not by `return_outputs`: TRL would run a second forward pass to rebuild the logits.
        """
        indices = inputs.pop("index").tolist()
        forward = _KeepOutput(model)
        loss = super().compute_loss(forward, inputs, num_items_in_batch=num_items_in_batch)
        output = forward.output
        row_losses = -output.log_probs.detach().sum(1) / output.label_mask.sum(1).clamp(min=1)
        queries = [self.rows[index].query for index in indices]
        finite.check_rows(row_losses.tolist(), queries, self.state.global_step)
        for query, row_loss in zip(queries, row_losses.tolist(), strict=True):
            self.losses_by_type[query.type].append(row_loss)
        return loss

    def step_stats(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return a step's record with loss by type and `data_seconds`; call on all processes."""
        shares = distributed.all_gather(dict(self.losses_by_type))
        by_type = {}
        for name in sorted(set().union(*shares)):
            losses = [loss for share in shares for loss in share.get(name, ())]
            by_type[name] = {"loss": round(sum(losses) / len(losses), 5)}
        self.losses_by_type.clear()
        data_seconds, self.data_seconds = self.data_seconds, 0.0
        return record | {"by_type": by_type, "data_seconds": data_seconds}


class _KeepOutput:
    """A model's forward pass that keeps what the model returned last."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.output: Any = None

    def __call__(self, **inputs: Any) -> Any:
        self.output = self._model(**inputs)
        return self.output


def train(
    model: Any,
    encoder: Encoder,
    rows: Sequence[TrainingRow],
    config: SftConfig,
    *,
    seed: int,
    log: Log,
    checkpoints: Checkpoints | None = None,
    trackers: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Train `model` in place, from its newest checkpoint if there is one.

    Args:
        model: The thinker, on the CPU or this process's GPU.
        encoder: The model's encoder.
        rows: Training rows with targets.
        config: The section `sft`.
        seed: Seed of the row order and of dropout.
        log: Called with the record of each step, which holds the `data_seconds` spent waiting for
            rows.
        checkpoints: Where the training saves its checkpoints; None saves none.
        trackers: Arguments of `tracking.tracker_arguments`.

    Returns:
        How often each group of the mixture is walked through.

    Raises:
        TrainingError: A loss, gradient or weight is not finite.
        ConfigError: The mixture names groups that the rows are not of.
        DataError: A medium of a row cannot be read any more.
    """
    mixture = Mixture(
        [row.query for row in rows],
        [row.tokens for row in rows],
        config.mixture,
        batch=config.train_batch_size,
        steps=config.steps,
        seed=seed,
    )
    order = RowOrder(mixture, checkpoints.step if checkpoints else 0)

    def collate_rows(chosen: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        indices = [row["index"] for row in chosen]
        prompts = [rows[index].prompt for index in indices]
        replies = [rows[index].reply for index in indices]
        tensors = collate(prompts, replies, encoder.pad_id)
        return tensors | {"index": torch.tensor(indices)}

    with tempfile.TemporaryDirectory() as scratch:
        trainer = OmniSFTTrainer(
            model=model,
            args=trainer_arguments(config, seed, trackers or {}, scratch),
            rows=rows,
            checkpoints=checkpoints,
            train_dataset=Dataset.from_dict({"index": list(order)}),
            processing_class=encoder.tokenizer,
            data_collator=collate_rows,
            peft_config=trainable_modules.freeze_modules(model, config),
        )
        if trainer.is_deepspeed_enabled:
            trainer.add_callback(parallel.RunBothEncoders())
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(finite.FiniteCheck())
        trainer.add_callback(CurveCallback(log, trainer.step_stats))
        try:
            trainer.resume()
        except DataError as error:
            # A process that reads ahead puts its traceback before the message.
            message = str(error).rpartition("DataError: ")[2].strip()
            raise DataError(message, **error.details()) from error
        parallel.gather_weights(trainer.model)
        if processes.is_main():
            trainable_modules.merge_adapters(trainer.model)
    return mixture.epochs()


def trainer_arguments(
    config: SftConfig, seed: int, trackers: Mapping[str, Any], scratch: str
) -> TrlConfig:
    """Return TRL's arguments for a training with this configuration on this process.

    Raises:
        ConfigError: The rows of a step do not divide among processes or micro-batches.
    """
    own_rows = distributed.per_process(config.train_batch_size, "train_batch_size")
    settings = COMMON_ARGUMENTS | dict(trackers) | trainable_modules.precision_arguments(config)
    settings["dataloader_num_workers"] = config.dataloader_num_workers
    return TrlConfig(
        output_dir=scratch,
        max_steps=config.steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup_steps,
        seed=seed,
        train_sampling_strategy="sequential",  # the mixture has its own order
        dataset_kwargs={"skip_prepare_dataset": True},
        **parallel.batch_arguments(config, own_rows),
        **OPTIMIZER,
        **settings,
    )
