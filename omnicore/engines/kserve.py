"""The engine behind a server of its own: KServe serves the checkpoint while a step asks, and not a
moment longer."""

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
    """Asks the server behind `service`, and looks after it meanwhile."""

    def __init__(
        self, service: ServedModel, config: EngineConfig, model: str, profile: Profile
    ) -> None:
        self.name = model
        self._service = service
        since: float | None = None
        while True:
            url = f"{service.wait_until_ready().rstrip('/')}/v1"
            try:
                self._http = OpenAIEngine(
                    config.model_copy(update={"url": url}), service.name, profile
                )
                return
            except EngineError as error:
                since = since or time.monotonic()
                # Names and routes come to this pod later than to KServe, but they come.
                if time.monotonic() - since > timeouts.NO_PROGRESS:
                    raise EngineError(
                        service.describe(f"is ready, but cannot be asked: {error}")
                    ) from error
            service.poll(timeouts.FIRST_RETRY)

    def answer(self, batches: Sequence[Batch], sampling: Sampling) -> Iterator[FinishedBatches]:
        """Raises ClusterError, before what came last is given, when the server is not the one that
        was deployed any more; EngineError when it answers no more, with what the cluster knows of
        it."""
        try:
            for finished in self._http.answer(batches, sampling):
                self._service.poll()
                yield finished
        except EngineError as error:
            raise EngineError(self._service.describe(f"answers no more: {error}")) from error
        self._service.confirm()

    def with_profile(self, profile: Profile) -> OpenAIEngine:
        return self._http.with_profile(profile)


@contextmanager
def deployed_engine(
    config: EngineConfig, model: str, recipe: Recipe, output: Path, label: str
) -> Iterator[KServeEngine]:
    """Deploys `model`, an s3:// address or a directory, and gives an engine that has been seen to answer; whatever happens
    then, the server is removed, by SIGTERM at once.

    Its name hangs on the run, on `label` and `output` and on the model: a step that is tried again finds the server of its
    first try, and two steps never share one.

    Raises ConfigError for missing settings or rights, CheckpointError and DataError for a model that cannot be served,
    StorageError, ClusterError for a server that does not start, and EngineError for one that does not answer.
    """
    place = recipe.launcher
    if not place.image:
        raise ConfigError(
            "engine.kind=kserve needs launcher.image: an init container of it fetches the"
            " checkpoint"
        )
    cluster = connect(place.namespace)
    found = publish_checkpoint(model, place.storage)
    run, owner = pipeline_run(cluster, recipe)
    key = digest([str(output), found.uri, config.runtime, config.gpus])
    spec = ServeSpec(
        name=job_name(run, label, key),
        namespace=cluster.namespace,
        labels=labels(run, label, key),
        model=found,
        engine=config,
        place=place.model_copy(update={"env": {**passed_on(), **place.env}}),
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
