"""Supervised fine-tuning through TRL's SFTTrainer, with a collator that carries sound and
pictures."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from omnicore import distributed, processes
from omnicore.config import SftConfig
from omnicore.errors import DataError
from omnicore.models.processor import Encoder, collate
from omnicore.training import finite, parallel, trainable_modules
from omnicore.training.checkpoints import Checkpoints, Resumable
from omnicore.training.curves import CurveCallback
from omnicore.training.mixture import Mixture, RowOrder
from omnicore.training.rows import TrainingRow

# Adam's second moment forgets faster than usual: runs are a few dozen steps long.
OPTIMIZER = {"adam_beta1": 0.9, "adam_beta2": 0.98, "weight_decay": 0.0, "max_grad_norm": 1.0}
PLAIN = {
    "report_to": [],
    "save_strategy": "no",
    "remove_unused_columns": False,
    "gradient_checkpointing": False,
    "bf16": False,
    "disable_tqdm": True,
    "logging_steps": 1,
    "logging_nan_inf_filter": False,  # else a loss that is not finite is logged as 0
    "dataloader_num_workers": 0,
}


class OmniSFTTrainer(Resumable, SFTTrainer):  # type: ignore[misc]
    """Draws its rows from a mixture, and keeps the loss by query type beside the trainer's own
    mean."""

    def __init__(
        self, *args: Any, rows: Sequence[TrainingRow], mixture: Mixture, **kwargs: Any
    ) -> None:
        self._rows, self._mixture = rows, mixture
        self.by_type: dict[str, list[float]] = defaultdict(list)
        self.waited = 0.0  # seconds for data since the last logged step
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> RowOrder:
        return RowOrder(self._mixture)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        found = super().get_batch_samples(*args, **kwargs)
        self.waited += time.monotonic() - began
        return found

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        indices = inputs.pop("index").tolist()
        seen = []

        def forward(**given: Any) -> Any:
            seen.append(model(**given))
            return seen[-1]

        # Not through return_outputs: TRL would run a second forward pass to rebuild the logits.
        loss = super().compute_loss(forward, inputs, num_items_in_batch=num_items_in_batch)
        each = -seen[0].log_probs.detach().sum(1) / seen[0].label_mask.sum(1).clamp(min=1)
        queries = [self._rows[index].query for index in indices]
        finite.check_rows(each.tolist(), queries, self.state.global_step)
        for query, value in zip(queries, each.tolist(), strict=True):
            self.by_type[query.type].append(value)
        return loss


def train(
    model: Any,
    encoder: Encoder,
    rows: Sequence[TrainingRow],
    config: SftConfig,
    *,
    seed: int,
    log: Callable[[dict[str, Any]], None],
    checkpoints: Checkpoints | None = None,
    trackers: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Trains `model` in place, from the newest of its checkpoints on; `log` gets one record a step,
    with the `data_seconds` that it waited for rows, and `trackers` are the Trainer's arguments of
    `tracking.reported`. Returns how often each group of the mixture is walked through.

    Raises TrainingError when a loss, gradient or weight is not finite, ConfigError for a mixture
    that the rows are not of, DataError naming the row where a medium cannot be read any more.
    """
    queries, tokens = [row.query for row in rows], [row.tokens for row in rows]
    mixture = Mixture(
        queries,
        tokens,
        config.mixture,
        batch=config.train_batch_size,
        steps=config.steps,
        seed=seed,
    )

    def batch(chosen: list[dict[str, int]]) -> dict[str, torch.Tensor]:
        indices = [row["index"] for row in chosen]
        tensors = collate(
            [rows[i].prompt for i in indices], [rows[i].reply for i in indices], encoder.pad_id
        )
        return {**tensors, "index": torch.tensor(indices)}

    with tempfile.TemporaryDirectory() as scratch:
        args = TrlConfig(
            output_dir=scratch,
            max_steps=config.steps,
            learning_rate=config.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=config.warmup_steps,
            seed=seed,
            dataset_kwargs={"skip_prepare_dataset": True},
            **parallel.batch_arguments(
                config, distributed.per_process(config.train_batch_size, "train_batch_size")
            ),
            **OPTIMIZER,
            **{
                **PLAIN,
                **(trackers or {}),
                **trainable_modules.precision_arguments(config),
                "dataloader_num_workers": config.dataloader_num_workers,
            },
        )
        trainer = OmniSFTTrainer(
            model=model,
            args=args,
            rows=rows,
            mixture=mixture,
            checkpoints=checkpoints,
            train_dataset=Dataset.from_dict({"index": list(range(len(rows)))}),
            processing_class=encoder.tokenizer,
            data_collator=batch,
            peft_config=trainable_modules.freeze_modules(model, config),
        )

        def add(record: dict[str, Any]) -> dict[str, Any]:
            parts = distributed.all_gather(dict(trainer.by_type))
            losses = {
                name: [x for part in parts for x in part.get(name, ())]
                for name in sorted(set().union(*parts))
            }
            by_type = {name: {"loss": round(sum(v) / len(v), 5)} for name, v in losses.items()}
            trainer.by_type.clear()
            waited, trainer.waited = trainer.waited, 0.0
            return {**record, "by_type": by_type, "data_seconds": waited}

        if trainer.is_deepspeed_enabled:
            trainer.add_callback(parallel.RunBothEncoders())
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(finite.FiniteCheck())
        trainer.add_callback(CurveCallback(log, add))
        try:
            trainer.resume()
        except DataError as error:  # a process that reads ahead puts its traceback before it
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from error
        parallel.gather_weights(trainer.model)
        if processes.is_main():
            trainable_modules.merge_adapters(trainer.model)
    return mixture.epochs()
