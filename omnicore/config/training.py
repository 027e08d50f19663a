"""The sections of the trainings, and of distill, which writes the rows of the last training."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from omnicore.config.base import Config

# The steps that train, and the field of each whose count is divided among the processes.
TRAINING = {"sft": "train_batch_size", "rlvr": "prompts_per_step"}


class MixtureConfig(Config):
    """Which rows a batch holds (training/mixture.py)."""

    by: Literal["source", "modality", "type"] = Field(
        "source",
        description=(
            "what is mixed: sources, modalities (audio, vision, omni, text; each with text), or"
            " types of queries"
        ),
    )
    weights: dict[str, float] = Field(
        {}, description="share of each group in a batch, 0 leaves it out; default: equal shares"
    )
    balance: Literal["samples", "tokens"] = Field(
        "samples", description="what the weights are shares of"
    )
    window: int = Field(
        1,
        ge=1,
        description=(
            "steps whose rows are exchanged so that a batch holds rows of similar length: less"
            " padding, the same shares"
        ),
    )

    @model_validator(mode="after")
    def _require_shares(self) -> Self:
        if self.weights and (min(self.weights.values()) < 0 or not sum(self.weights.values())):
            raise ValueError(f"weights are shares, none below 0 and not all 0: {self.weights}")
        return self


ModuleGroup = Literal["language", "projectors", "audio", "vision"]
MODULE_GROUPS: tuple[ModuleGroup, ...] = get_args(ModuleGroup)


class LoraConfig(Config):
    """LoRA adapters on the linear layers of `trainable_modules`.

    They train in place of the weights and are merged into them at the end.
    """

    rank: int = Field(16, ge=1)
    alpha: float = Field(
        32.0, gt=0, description="LoRA alpha: the adapter's output is scaled by alpha / rank"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout, on the adapter's input")
    target_modules: tuple[str, ...] = Field(
        (),
        description=(
            "last components of layer names, as in q_proj; default: all linear layers but lm_head"
        ),
    )


class TrainingConfig(Config):
    """The fields that both trainings have."""

    steps: int = Field(50, ge=1, description="optimizer steps")
    learning_rate: float = Field(
        2e-4, gt=0, le=1, description="peak learning rate; it decays linearly to 0"
    )
    warmup_steps: int = Field(5, ge=0, description="steps until the peak learning rate")
    trainable_modules: tuple[ModuleGroup, ...] = Field(
        MODULE_GROUPS,
        min_length=1,
        description="modules that train; projectors lead from each encoder to the language model",
    )
    lora: LoraConfig | None = Field(
        None, description="adapters in place of all weights of these modules; null: all weights"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the arithmetic; weights that train are kept in float32"
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = Field(
        False, description="compute a layer's activations again for the backward pass: less memory"
    )
    mixture: MixtureConfig = MixtureConfig()
    max_length: int = Field(
        0, ge=0, description="of a row, media and reply included; 0: what the model's context holds"
    )
    max_too_long: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "share of rows that may be longer and are left out (listed in too_long.jsonl); none"
            " is truncated"
        ),
    )
    save_steps: int = Field(
        0,
        ge=0,
        description=(
            "steps from one checkpoint to the next, from which a killed run resumes; 0: none"
        ),
    )
    save_total_limit: int = Field(
        2, ge=1, description="newest checkpoints to keep while a run is in progress"
    )
    per_device_train_batch_size: int = Field(
        0,
        ge=0,
        description=(
            "rows of a forward pass on one process; gradients accumulate to the batch; 0: all rows"
            " of the process"
        ),
    )
    parallel: Literal["ddp", "zero2", "zero3"] = Field(
        "ddp",
        description=(
            "what each process holds: ddp, everything; zero2, its share of gradients and optimizer;"
            " zero3, also of the weights"
        ),
    )

    @model_validator(mode="after")
    def _require_bfloat16_for_flash_attention(self) -> Self:
        if self.attn_implementation == "flash_attention_2" and self.precision != "bfloat16":
            raise ValueError(
                "attn_implementation=flash_attention_2 computes only in bfloat16: set"
                " precision=bfloat16, or"
                " attn_implementation=sdpa"
            )
        return self


class TrackerConfig(Config):
    """Trackers that show a training's curves, by transformers' own integrations.

    They change no result.
    """

    report_to: tuple[Literal["tensorboard", "mlflow", "wandb", "trackio"], ...] = Field(
        (), description="trackers, each an installed package"
    )
    project: str = Field(
        "omnicore", description="the project of W&B and trackio, the experiment of MLflow"
    )
    tracking_uri: str = Field(
        "",
        description="MLflow's server, as in http://127.0.0.1:5000 (default: MLFLOW_TRACKING_URI)",
    )
    logging_dir: str = Field(
        "", description="where trackers write files (default: <output>.tracker, beside the output)"
    )


class SftConfig(TrainingConfig):
    """Supervised fine-tuning on written replies, loss on the reply only (TRL's SFTTrainer)."""

    data: str = Field(description="file of queries with targets in the input named `data`")
    steps: int = Field(60, ge=1, description="optimizer steps")
    train_batch_size: int = Field(64, ge=1, description="rows a step, on all processes together")
    dataloader_num_workers: int = Field(
        0,
        ge=0,
        description=(
            "processes that read media ahead of the training; 0: the training process reads them"
        ),
    )
    learning_rate: float = Field(
        1.5e-4, gt=0, le=1, description="peak learning rate; it decays linearly to 0"
    )
    warmup_steps: int = Field(10, ge=0, description="steps until the peak learning rate")


class RlvrConfig(TrainingConfig):
    """GRPO on verifiable rewards over mixed modalities (TRL's GRPOTrainer with audio)."""

    data: str = "rlvr.jsonl"
    prompts_per_step: int = Field(16, ge=1, description="prompts a step, on all processes together")
    num_generations: int = Field(8, ge=2, description="rollouts a prompt")
    temperature: float = Field(1.0, gt=0, le=10)
    loss_type: Literal["dapo", "grpo", "dr_grpo", "gspo"] = Field(
        "dapo", description="gspo weights whole replies: grpo with importance sampling by sequence"
    )
    num_iterations: int = Field(
        1,
        ge=1,
        description="optimizer steps on the same rollouts; above 1, clipping begins to matter",
    )
    beta: float = Field(0.0, ge=0, description="weight of the KL term to the start model")
    format_reward_weight: float = Field(
        0.0,
        ge=0,
        le=0.2,
        description=(
            "reward of a reply whose answer can be read; never decides whether a group is used"
        ),
    )
    dynamic_sampling: int = Field(
        0,
        ge=0,
        description=(
            "rounds at most in which other prompts replace groups that are all right or all wrong"
        ),
    )
    max_logprob_gap: float = Field(
        0.1,
        gt=0,
        description=(
            "largest difference of a token's log-prob between trainer and rollout engine, in nats;"
            " the run stops beyond it"
        ),
    )
    rollout_engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        description=(
            "what generates: the model that trains, or a vLLM server that loads its weights each"
            " step"
        ),
    )
    vllm_server_base_url: str = Field(
        "", description="base of the vLLM server's API, as in http://127.0.0.1:8000/v1"
    )
    vllm_weights_dir: str = Field(
        "",
        description=(
            "directory that the vLLM server can read, for the weights of each step; default: a"
            " temporary one"
        ),
    )
    vllm_enable_sleep_mode: bool = Field(
        False,
        description="the server shares the GPU and sleeps (frees its memory) while the step trains",
    )
    control: Literal["none", "random_reward", "muted_audio", "text_only"] = Field(
        "none",
        description=(
            "control arms, to compare a run with: random_reward gives rewards at random, which"
            " shows the effect of luck; muted_audio withholds the sound, and text_only all media,"
            " which shows what is gained without them"
        ),
    )

    @model_validator(mode="after")
    def _require_vllm_server(self) -> Self:
        if self.rollout_engine == "vllm" and not self.vllm_server_base_url.startswith(
            ("http://", "https://")
        ):
            raise ValueError(
                "rlvr.rollout_engine=vllm needs rlvr.vllm_server_base_url, as in http://127.0.0.1:8000/v1"
            )
        return self


class DistillConfig(Config):
    """Self-distillation: own rollouts on omni queries become training rows.

    Only those that pass every rule of training/selection.py do.
    """

    data: str = "distill.jsonl"
    num_generations: int = Field(2, ge=1, description="rollouts a prompt")
    temperature: float = Field(1.0, gt=0, le=10)
    batch_size: int = Field(256, ge=1)
    agreement: float = Field(
        0.5,
        ge=0,
        le=1,
        description=(
            "share of a query's rollouts that must give the same answer: fewer are right by luck"
        ),
    )
    min_tokens: int = Field(0, ge=0, description="of a rollout, thinking and end of turn included")
    max_tokens: int = Field(0, ge=0, description="of a rollout; 0: as many as the profile allows")
    per_query: int = Field(2, ge=1, description="most rows of one query")
    max_source: float = Field(
        1.0, gt=0, le=1, description="share of the rows that one benchmark or source may have"
    )
    max_type: float = Field(
        1.0, gt=0, le=1, description="share of the rows that one type of query may have"
    )

    @model_validator(mode="after")
    def _require_length_range(self) -> Self:
        if self.max_tokens and self.max_tokens < self.min_tokens:
            raise ValueError(
                f"max_tokens={self.max_tokens} is below min_tokens={self.min_tokens}: no rollout is"
                " of such a length"
            )
        return self
