"""The sections of a recipe: one pydantic model per step. Unknown or mistyped fields are refused.

`digest` of what a step reads is part of the key under which its output is cached. The recipe as a whole: recipe.py.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from omnicore.schema import View


class Config(BaseModel):
    # Numbers as texts: YAML reads `cpu: 2` as a number, and a quantity of Kubernetes is a text.
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class Profile(Config):
    """How a query is put to a model and how its reply is bounded. Scores of different profiles are never compared."""

    system: str = ""
    style: Literal["value", "letter"] = Field(
        "value", description="options listed bare and answered by value, or lettered and answered by letter"
    )
    instruction: str = Field("", description="appended to every question")
    max_new_tokens: int = Field(14, ge=1)
    fps: float = Field(1.0, gt=0, description="frames a second that are shown of a video")
    max_frames: int = Field(32, ge=1, description="frames at most; a longer video is shown at fewer a second")
    server: str = Field("", description="name and version of what serves the model, as in vllm-0.32.0: scores move with it")


class EngineConfig(Config):
    """Who answers: a model in this process, a server that speaks OpenAI's chat completions (vLLM, `omnicore serve`), or one
    that KServe runs for the step alone, in the namespace of `launcher` and with its image, storage and secrets."""

    kind: Literal["transformers", "http", "kserve"] = "transformers"
    url: str = Field("", description="base of the server's API, as in http://127.0.0.1:8000/v1")
    key_env: str = Field("OMNI_API_KEY", description="environment variable that holds the API key, where the server wants one")
    concurrency: int = Field(32, ge=1, description="requests on their way at a time")
    timeout: float = Field(300, gt=0, description="seconds until a request without an answer is given up and tried again")
    retries: int = Field(6, ge=0, description="tries after the first; waits double from half a second, with jitter")
    max_error_rate: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of requests that may fail for good: listed in errors.jsonl, scored as nothing",
    )
    reference: str = Field("", description="checkpoint whose stored canary answers the server must give, or embedded:NAME")
    runtime: str = Field("omnicore-vllm", description="ServingRuntime of KServe that serves the model")
    gpus: int = Field(1, ge=0, description="of KServe's server, which shares the model out among them")
    cpu: str = Field("8", description="cores of KServe's server")
    memory: str = Field("64Gi", description="of KServe's server, without its shared memory")
    service_account: str = Field("omnicore-serve", description="of KServe's server, which mounts no token of it")
    start_seconds: int = Field(3_600, ge=1, description="until KServe's server must answer; time in a queue does not count")

    @model_validator(mode="after")
    def _a_server_has_a_url(self) -> Self:
        if self.kind == "http" and not self.url.startswith(("http://", "https://")):
            raise ValueError("engine.kind=http needs engine.url, as in http://127.0.0.1:8000/v1")
        return self


# How an engine is reached. It decides no answer, so it is no part of the key of a result: a probe that timed out goes on from
# its journal with a longer timeout or on another server.
TRANSPORT = frozenset(
    {"url", "key_env", "concurrency", "timeout", "retries", "max_error_rate"}
    | {"gpus", "cpu", "memory", "service_account", "start_seconds"}
)

# What a training writes on its way, how much of it is in memory at once, who reads its media, and where a server of rollouts is,
# decides nothing of where it ends.
SAVING = frozenset({"checkpoint_every", "keep_checkpoints", "micro_batch", "workers", "server", "server_weights", "server_sleeps"})


COLUMNS = ("id", "question", "options", "answer", "target", "type", "image", "audio", "video")


class TrainingSource(Config):
    """Rows from outside to train on; the formats are described in sources.py."""

    format: Literal["queries", "hub", "r1"]
    path: str = Field(
        description="file or folder; with `revision`, a data set of the hub, as in m-a-p/OmniInstruct_v1, or an s3:// address"
    )
    revision: str = Field(
        "",
        pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})?$",
        description="commit of the hub's data set, 40 hex digits, or digest of what is published in S3, 64: names alone move",
    )
    files: str = Field("", description="pattern of the files with rows under `path`, as in data/train-*.parquet; none for one file")
    stages: tuple[Literal["sft", "rlvr", "distill"], ...] = Field(min_length=1, description="what the rows are for")
    columns: dict[str, str] = Field({}, description=f"of format hub: its columns for any of {', '.join(COLUMNS)}")
    sound: bool = Field(False, description="of format r1: the sound of a video belongs to the query, as HumanOmniV2 trains")

    @model_validator(mode="after")
    def _columns_are_named(self) -> Self:
        if unknown := sorted(self.columns.keys() - set(COLUMNS)):
            raise ValueError(f"columns names {unknown[0]}, which is none of {', '.join(COLUMNS)}")
        if self.format == "hub" and not {"question", "answer"} <= self.columns.keys():
            raise ValueError("format hub needs columns, as in {question: question, answer: answer, audio: audio}")
        if self.format != "hub" and self.columns:
            raise ValueError(f"format {self.format} has fields of its own: columns are for format hub")
        return self


class PrepareConfig(Config):
    """The benchmarks under study. The embedded one, `synthetic`, comes with training sets; `sources` are public ones."""

    sources: dict[str, str] = Field(
        {},
        description="public benchmarks, each with the folder of a local copy as its publisher lays it out; `hub` or `hub@REVISION` "
        "downloads it. None: the embedded benchmark",
    )
    training: dict[str, TrainingSource] = Field(
        {}, description="sources of training rows by name; a stage that none is for keeps the rows of the embedded benchmark"
    )
    max_refused: float = Field(
        0.01, ge=0, lt=1, description="share of a benchmark's or source's items that may be unreadable (listed in problems.jsonl)"
    )
    split: Literal["dev", "test"] = Field("test", description="tune on dev only: a metric tuned on test is void")
    scale: float = Field(1.0, gt=0, le=1, description="share of every count below and of the benchmarks, for quick tries")
    controls: int = Field(100, ge=4, description="single-modality queries of each type, shown beside the benchmarks")
    sft_rows: int = Field(1500, ge=8)
    rlvr_prompts: int = Field(800, ge=8)
    rlvr_mix: dict[str, float] = Field(
        default_factory=lambda: {
            "picture": 1.0,
            "speech": 1.0,
            "picture_text": 1.0,
            "speech_text": 1.0,
            "transcript": 0.7,
            "sum": 4.0,
        },
        description="weights of query types among the RLVR prompts",
    )
    distill_prompts: int = Field(400, ge=8)
    distill_mix: dict[str, float] = Field(
        default_factory=lambda: {"sum": 1.0}, description="weights of query types to distill from"
    )


class ProbeConfig(Config):
    """Asks a probe model with modalities withheld, several times, options re-shuffled."""

    model: str = Field("embedded:tiny-probe", description="a directory, embedded:NAME, or the name under which a server has it")
    engine: EngineConfig = EngineConfig()
    data: str = Field("queries.jsonl", description="file of prepare to ask: the benchmarks, or training items as in rlvr.jsonl")
    draws: dict[View, int] = Field(description="draws per query under each view; 0 leaves a view out")
    temperature: float = Field(1.0, ge=0)
    batch: int = Field(256, ge=1, description="prompts generated together; also the unit of the journal")

    @model_validator(mode="after")
    def _withholds_something(self) -> Self:
        if View.omni in self.draws:
            raise ValueError("a probe withholds a modality: view `omni` is an evaluation")
        return self


class CleanConfig(Config):
    """From draws to verdicts. Every policy that the draws allow is computed; `policy` names the one that makes the clean view."""

    policy: Literal["repeated", "single_pass", "circular"] = "repeated"
    # 0.02 is a precision of 0.98: at 0.05, 5 of 8 passes for a probe that guesses among four options, with 0.97.
    max_fdr: float = Field(0.02, gt=0, lt=1, description="at most this share of a benchmark's removals is removed by luck")
    max_lost: float = Field(
        0.03, gt=0, lt=1, description="at most this share of the queries that nobody can solve is removed by luck"
    )
    undecided: float = Field(0.1, gt=0, lt=1, description="kept queries rarer than this under the null are flagged undecided")


class EvaluateConfig(Config):
    """Asks once, greedily; the ablations ask again with one modality hidden."""

    ablations: tuple[View, ...] = (View.visual_only, View.audio_only)
    batch: int = Field(256, ge=1)


class MixtureConfig(Config):
    """Which rows a batch holds: training/mixture.py."""

    by: Literal["source", "modality", "type"] = Field(
        "source", description="what is mixed: sources, classes (audio, vision, omni, text; each with text), or types of queries"
    )
    weights: dict[str, float] = Field({}, description="share of each group in a batch, 0 leaves it out; none given: all the same")
    balance: Literal["samples", "tokens"] = Field("samples", description="what the weights are shares of")
    window: int = Field(
        1,
        ge=1,
        description="steps whose rows are exchanged so that a batch holds rows of like length: less padding, the same shares",
    )

    @model_validator(mode="after")
    def _weights_are_shares(self) -> Self:
        if self.weights and (min(self.weights.values()) < 0 or not sum(self.weights.values())):
            raise ValueError(f"weights are shares, none below 0 and not all 0: {self.weights}")
        return self


Part = Literal["language", "projectors", "audio", "vision"]
PARTS: tuple[Part, ...] = ("language", "projectors", "audio", "vision")


class LoraConfig(Config):
    """Adapters on the linear layers of the parts that train, in place of their weights; merged into them at the end."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0, description="what an adapter says is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what an adapter hears")
    targets: tuple[str, ...] = Field((), description="ends of the layers' names, as in q_proj; none given: all but lm_head")


class TrainingConfig(Config):
    """What both trainers take."""

    steps: int = Field(50, ge=1, description="optimizer steps")
    rate: float = Field(2e-4, gt=0, description="highest learning rate; it falls to 0 linearly")
    warmup: int = Field(5, ge=0, description="steps until the rate is reached")
    parts: tuple[Part, ...] = Field(
        PARTS, min_length=1, description="what trains; projectors lead from each tower to the language model"
    )
    lora: LoraConfig | None = Field(None, description="adapters in place of all weights of these parts; null: all weights")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of the arithmetic; what trains is kept in float32")
    attention: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    gradient_checkpointing: bool = Field(
        False, description="compute a layer's activations again for the backward pass: less memory"
    )
    mixture: MixtureConfig = MixtureConfig()
    max_tokens: int = Field(0, ge=0, description="of a row, media and reply included; 0: what the model's context holds")
    max_too_long: float = Field(
        0.0, ge=0, lt=1, description="share of rows that may be longer and are left out (listed in too_long.jsonl); none is cut"
    )
    checkpoint_every: int = Field(
        0, ge=0, description="steps from one checkpoint to the next, from which a killed run goes on; 0: none"
    )
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints that are kept while a run is under way")
    micro_batch: int = Field(
        0, ge=0, description="rows of a forward pass on one process, gradients add up to the batch; 0: all that the process has"
    )
    parallel: Literal["ddp", "zero2", "zero3"] = Field(
        "ddp",
        description="what each process holds: ddp, everything; zero2, its share of gradients and optimizer; zero3, of weights, too",
    )

    @model_validator(mode="after")
    def _flash_attention_is_of_half_precision(self) -> Self:
        if self.attention == "flash_attention_2" and self.precision != "bfloat16":
            raise ValueError("attention=flash_attention_2 computes in bfloat16 alone: set precision=bfloat16, or attention=sdpa")
        return self

    @model_validator(mode="after")
    def _zero_writes_no_checkpoints(self) -> Self:
        if self.parallel != "ddp" and self.checkpoint_every:
            raise ValueError(f"parallel={self.parallel} writes no checkpoints yet: set checkpoint_every=0, or parallel=ddp")
        return self


class SftConfig(TrainingConfig):
    """Supervised fine-tuning on written replies, loss on the reply only (TRL's SFTTrainer)."""

    data: str = Field(description="file of queries with targets in the input named `data`")
    steps: int = Field(60, ge=1, description="optimizer steps")
    batch: int = Field(64, ge=1, description="rows a step, on all processes together")
    workers: int = Field(0, ge=0, description="processes that read media ahead of the training; 0: the training does it itself")
    rate: float = Field(1.5e-4, gt=0, description="highest learning rate; it falls to 0 linearly")
    warmup: int = Field(10, ge=0, description="steps until the rate is reached")


class RlvrConfig(TrainingConfig):
    """GRPO on verifiable rewards over mixed modalities (TRL's GRPOTrainer with audio)."""

    data: str = "rlvr.jsonl"
    prompts: int = Field(16, ge=1, description="prompts a step, on all processes together")
    group: int = Field(8, ge=2, description="rollouts a prompt")
    temperature: float = Field(1.0, gt=0)
    loss: Literal["dapo", "grpo", "dr_grpo", "gspo"] = Field(
        "dapo", description="gspo weighs whole replies: grpo with importance sampling by sequence"
    )
    iterations: int = Field(1, ge=1, description="optimizer steps on the same rollouts; above 1, clipping begins to matter")
    beta: float = Field(0.0, ge=0, description="weight of the KL term to the start model")
    format_weight: float = Field(
        0.0, ge=0, le=0.2, description="paid for a reply whose answer can be read; never decides whether a group is used"
    )
    refill: int = Field(
        0, ge=0, description="rounds at most in which further prompts take the place of groups that are all right or all wrong"
    )
    max_logprob_gap: float = Field(
        0.1, gt=0, description="in nats, between what trainer and rollout engine say of a token; the run stops beyond it"
    )
    rollouts: Literal["transformers", "vllm"] = Field(
        "transformers", description="who generates: the model that trains, or a vLLM server that is given its weights each step"
    )
    server: str = Field("", description="base of the vLLM server's API, as in http://127.0.0.1:8000/v1")
    server_weights: str = Field(
        "", description="directory that the vLLM server can read, for the weights of each step; default: a temporary one"
    )
    server_sleeps: bool = Field(False, description="the server shares the GPU and sleeps (frees its memory) while the step trains")
    control: Literal["none", "random_reward", "muted_audio", "text_only"] = Field(
        "none",
        description="arms to be shown beside a real run: random_reward pays a coin flip, which is what luck alone does; "
        "muted_audio withholds the sound, and text_only all media, which is what is gained without them",
    )

    @model_validator(mode="after")
    def _vllm_has_a_server(self) -> Self:
        if self.rollouts == "vllm" and not self.server.startswith(("http://", "https://")):
            raise ValueError("rlvr.rollouts=vllm needs rlvr.server, as in http://127.0.0.1:8000/v1")
        return self

    @model_validator(mode="after")
    def _rollouts_need_whole_weights(self) -> Self:
        if self.parallel == "zero3":
            raise ValueError("parallel=zero3 shares out the weights that rollouts come from: set parallel=zero2, or ddp")
        return self


class DistillConfig(Config):
    """Own rollouts on omni queries; those that pass every rule of training/selection.py become training rows."""

    data: str = "distill.jsonl"
    samples: int = Field(2, ge=1, description="rollouts a prompt")
    temperature: float = Field(1.0, gt=0)
    batch: int = Field(256, ge=1)
    agreement: float = Field(
        0.5, ge=0, le=1, description="share of a query's rollouts that must name the same answer: fewer are right by luck"
    )
    min_tokens: int = Field(0, ge=0, description="of a rollout, thinking and end of turn included")
    max_tokens: int = Field(0, ge=0, description="of a rollout; 0: as many as the profile lets it have")
    per_query: int = Field(2, ge=1, description="rows at most of one query")
    max_source: float = Field(1.0, gt=0, le=1, description="share of the rows that one benchmark or source may have")
    max_type: float = Field(1.0, gt=0, le=1, description="share of the rows that one type of query may have")

    @model_validator(mode="after")
    def _some_length_is_left(self) -> Self:
        if self.max_tokens and self.max_tokens < self.min_tokens:
            raise ValueError(f"max_tokens={self.max_tokens} is below min_tokens={self.min_tokens}: no rollout is of such a length")
        return self


class ReportConfig(Config):
    title: str = "OmniClean and OmniBoost on the embedded benchmark"


class PromoteConfig(Config):
    """Candidate against champion on the clean view."""

    min_effect: float = Field(0.02, ge=0, description="the interval of the paired difference must lie above this")
    worst_drop: float = Field(0.05, ge=0, description="no benchmark may lose more than this, beyond its interval")


class LauncherConfig(Config):
    """Where the heavy steps run: in this process, or as a job on a cluster (sft, rlvr; probe, evaluate, distill with a model in
    process). It decides no answer, so it is no part of the key of a result."""

    kind: Literal["process", "pytorchjob", "trainjob"] = "process"
    namespace: str = Field("", description="of the job (default: this pod's own, or that of the kubeconfig)")
    image: str = Field("", description="of the job's pods, by digest: registry/omnicore-train@sha256:...")
    storage: str = Field("", description="s3:// root under which steps and jobs exchange directories")
    nodes: int = Field(1, ge=1, description="pods of a training step; the other steps take one")
    gpus_per_node: int = Field(1, ge=0, description="also the processes a pod of a training step; 0 trains on the CPU")
    gpu_memory: float = Field(
        0, ge=0, description="GiB of one GPU, to which a dry run holds its estimate; 0: of the one that is here"
    )
    cpu: str = Field("8", description="cores of a pod")
    memory: str = Field("64Gi", description="of a pod, shared memory included")
    shared_memory: str = Field("16Gi", description="size of a pod's /dev/shm: data loaders and NCCL use it")
    env: dict[str, str] = Field({}, description="environment of the pods")
    secrets: dict[str, str] = Field({}, description="environment from Secrets: AWS_ACCESS_KEY_ID: omnicore-s3/AWS_ACCESS_KEY_ID")
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()
    affinity: dict[str, Any] = {}
    topology_spread: tuple[dict[str, Any], ...] = Field((), description="topologySpreadConstraints of a PyTorchJob's pods")
    volumes: tuple[dict[str, Any], ...] = ()
    volume_mounts: tuple[dict[str, Any], ...] = ()
    queue: str = Field("", description="Kueue's LocalQueue that gives the quota")
    priority_class: str = Field("", description="Kueue's WorkloadPriorityClass; without a queue, a PriorityClass")
    service_account: str = Field("omnicore-train", description="of the pods, which mount no token of it")
    runtime: str = Field("omnicore", description="TrainingRuntime that a TrainJob starts from")
    deadline_seconds: int = Field(86_400, ge=1, description="a job that runs longer fails")
    ttl_seconds: int = Field(3_600, ge=0, description="a finished job that nobody removed goes after this")
    keep_on_failure: bool = Field(False, description="leave a failed job and its pods for a look, until their ttl ends")

    @model_validator(mode="after")
    def _a_job_has_an_image_and_storage(self) -> Self:
        if self.kind != "process" and not (self.image and self.storage.startswith("s3://")):
            raise ValueError(f"launcher.kind={self.kind} needs launcher.image and launcher.storage, as in s3://bucket/runs")
        return self


def deciding(values: dict[str, Any]) -> dict[str, Any]:
    """A section's values, or a recipe's, without what decides no answer: how an engine is reached, where the step runs, and how
    often it saves what it has."""
    engine = {"engine": {k: v for k, v in values["engine"].items() if k not in TRANSPORT}} if "engine" in values else {}
    return {name: value for name, value in {**values, **engine}.items() if name not in {"launcher", *SAVING}}


def digest(value: Any) -> str:
    """sha256 of a value's sorted JSON; pydantic models by their fields."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
