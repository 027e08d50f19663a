"""Engine for a model that KServe serves for one step only."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from omnicore.cluster import timeouts
from omnicore.cluster.client import connect
from omnicore.cluster.inferenceservice import ServeSpec, publish_checkpoint
from omnicore.cluster.launch import delete_on_sigterm
from omnicore.cluster.names import job_name, labels
from omnicore.cluster.serve import ServedModel
from omnicore.cluster.step_job import passed_on, pipeline_run
from omnicore.config import EngineConfig, Profile, digest
from omnicore.config.recipe import Recipe
from omnicore.engines.base import Batch, FinishedBatches, Sampling
from omnicore.engines.openai import OpenAIEngine
from omnicore.errors import ConfigError, EngineError


class KServeEngine:
    """Engine that sends requests to a deployed model and watches its InferenceService meanwhile."""

    def __init__(
        self, service: ServedModel, config: EngineConfig, model: str, profile: Profile
    ) -> None:
        """Wait until the model is ready and answers.

        Raises:
            ClusterError: It will never be ready.
            EngineError: It is ready and does not answer.
        """
        self.name = model
        self._service = service
        failing_since: float | None = None
        while True:
            url = f"{service.wait_until_ready().rstrip('/')}/v1"
            reached = config.model_copy(update={"url": url})
            try:
                self._http = OpenAIEngine(reached, service.name, profile)
                return
            except EngineError as error:
                # DNS names and routes reach this pod later than KServe, but they do.
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since > timeouts.NO_PROGRESS:
                    raise EngineError(
                        service.describe(f"is ready, but does not answer requests: {error}"),
                        code="engine-kserve-unreachable",
                    ) from error
            service.poll(timeouts.FIRST_RETRY)

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[FinishedBatches]:
        """Yield replies as they arrive, as long as the deployed model is the one that answers.

        Raises:
            ClusterError: The InferenceService was deleted, changed or failed; replies that arrived
                since the last yield are dropped.
            EngineError: The server no longer answers; the message holds what the cluster reports.
        """
        try:
            for finished in self._http.answer(batches, sampling):
                self._service.poll()
                yield finished
        except EngineError as error:
            raise EngineError(
                self._service.describe(f"no longer answers: {error}"), **error.details()
            ) from error
        self._service.confirm()

    def with_profile(self, profile: Profile) -> OpenAIEngine:
        """Return an engine for the same server that shows media as `profile` says."""
        return self._http.with_profile(profile)


@contextmanager
def deployed_engine(
    config: EngineConfig, model: str, recipe: Recipe, output: Path, label: str
) -> Iterator[KServeEngine]:
    """Deploy a model, yield an engine that has answered, and remove the model in every case.

    SIGTERM removes it at once. Its name is derived from the run, `label`, `output` and the model:
    a step that is retried finds the server of its first attempt, and two steps never share one.

    Args:
        config: Settings of the engine.
        model: An s3:// address or a directory.
        recipe: Recipe of the run, with the settings of the launcher.
        output: Output directory of the step.
        label: Name of the step.

    Raises:
        ConfigError: Settings or permissions are missing.
        CheckpointError: The model cannot be served.
        DataError: The model cannot be published.
        StorageError: The bucket refuses a read or a write.
        ClusterError: The server does not start.
        EngineError: The server does not answer.
    """
    place = recipe.launcher
    if not place.image:
        raise ConfigError(
            "engine.kind=kserve needs launcher.image: an init container with this image fetches the"
            " checkpoint",
            code="engine-kserve-image-missing",
            field="launcher.image",
        )
    cluster = connect(place.namespace)
    published = publish_checkpoint(model, place.storage)
    run, owner = pipeline_run(cluster, recipe)
    key = digest([str(output), published.uri, config.runtime, config.gpus])
    spec = ServeSpec(
        name=job_name(run, label, key),
        namespace=cluster.namespace,
        labels=labels(run, label, key),
        model=published,
        engine=config,
        place=place.model_copy(update={"env": passed_on() | place.env}),
        owner=owner,
    )
    service = ServedModel(cluster, spec)
    with delete_on_sigterm(service):
        try:
            service.start()
            yield KServeEngine(service, config, model, recipe.profile)
        finally:
            service.close()
            service.discard()
