"""What all sections are, who answers and where work runs, and what of a section decides an answer."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from omnicore.config.written import fitted
from omnicore.schema import CONTROL

LARGEST = 2**32 - 1  # of any number in a recipe: seeds of numpy end there, and clocks and counts of libraries not far above


class Config(BaseModel):
    """Base of every section: frozen, unknown fields refused, numbers finite and bounded, texts as they were written."""

    # Numbers as texts: JSON that says `"cpu": 2` holds a number, and a quantity of Kubernetes is a text.
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _texts_stay_texts(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: fitted(value, fields.get(name, Any)) for name, value in values.items()}

    @model_validator(mode="after")
    def _numbers_are_bounded(self) -> Self:
        for name in type(self).model_fields:
            value = getattr(self, name)
            for number in value.values() if isinstance(value, dict) else (value,):
                if isinstance(number, int | float) and abs(number) > LARGEST:
                    raise ValueError(f"{name}={number:g} is out of range: the largest number here is {LARGEST}")
        return self


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

    @field_validator("system", "instruction")
    @classmethod
    def _texts_control_nothing(cls, text: str) -> str:
        if found := CONTROL.search(text):
            raise ValueError(f"{found[0]!r} controls the model: leave it out, the chat template writes what is needed")
        return text


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
    video_rate: Literal["seen", "unseen"] = Field(
        "seen", description="unseen: the model is told no times of a video, as InternVL, and the canary does not ask for them"
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


# How an engine is reached. It decides no answer, so it is no part of the key of a result: a probe that timed out goes on from
# its journal with a longer timeout or on another server.
TRANSPORT = frozenset(
    {"url", "key_env", "concurrency", "timeout", "retries", "max_error_rate", "video_rate"}
    | {"gpus", "cpu", "memory", "service_account", "start_seconds"}
)

# What a training writes on its way, how much of it is in memory at once, who reads its media, and where a server of rollouts is,
# decides nothing of where it ends.
SAVING = frozenset({"checkpoint_every", "keep_checkpoints", "micro_batch", "workers", "server", "server_weights", "server_sleeps"})


def deciding(values: dict[str, Any]) -> dict[str, Any]:
    """A section's values, or a recipe's, without what decides no answer: how an engine is reached, where the step runs, and how
    often it saves what it has."""
    engine = {"engine": {k: v for k, v in values["engine"].items() if k not in TRANSPORT}} if "engine" in values else {}
    return {name: value for name, value in {**values, **engine}.items() if name not in {"launcher", "tracker", *SAVING}}


def digest(value: Any) -> str:
    """sha256 of a value's sorted JSON; pydantic models by their fields."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
