"""The retrain request: a small file in git that says what to train, on which data, from which
model, and why.

Its run is named by what it says, so a request is run once: by a commit, a schedule, new data in the
bucket, or a laptop. All of them call `omnicore submit --request`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from omnicore.config import Config, digest, raw_yaml
from omnicore.config.recipe import Recipe, load_recipe
from omnicore.errors import ConfigError
from omnicore.storage import store

FILE = Path(__file__).parents[1] / "k8s" / "gitops" / "retrain" / "request.yaml"
PIPELINE = "retrain"
IMAGE = "launcher.image=of-the-pipeline"  # jobs take the image that the pipeline was compiled with


class Request(Config):
    """What `request.yaml` holds.

    Where it is written is no part of it: the same request in another order, or with other comments,
    is the same run.
    """

    recipe: str = Field(
        min_length=1, description="a recipe of the pipeline's image, by name or path"
    )
    model: str = Field(
        min_length=1,
        description="the base model that training starts from: a directory or embedded:NAME",
    )
    benchmarks: dict[str, Annotated[str, Field(pattern=r"^(hub@[0-9a-f]{40}|/.+)$")]] = Field(
        {},
        description=(
            "what is judged by: hub@COMMIT, 40 hex digits, or a folder of the image. {}: the"
            " recipe's"
        ),
    )
    data: dict[str, Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]] = Field(
        {}, description="revision of each of the recipe's prepare.training that is pinned here"
    )
    overrides: tuple[str, ...] = Field(
        (), description="single values of the recipe, as in rlvr.steps=400"
    )
    reason: str = Field(
        min_length=1, description="why, for people; another reason is another request"
    )

    @property
    def run(self) -> str:
        """Name of its run."""
        return f"{PIPELINE}-{digest(self)[:12]}"

    def changes(self) -> list[str]:
        """All that it changes in the recipe."""
        pinned = [
            f"prepare.training.{name}.revision={json.dumps(revision)}"
            for name, revision in sorted(self.data.items())
        ]
        return [*self.overrides, *pinned]

    def parameters(self) -> dict[str, object]:
        """Those of the pipeline beside recipe, overrides and the run's name."""
        return {"model": self.model, "benchmarks": self.benchmarks}

    def newest(self) -> Request:
        """The same request on what is published by now at each s3:// address that `data` pins. Raises ConfigError for a recipe that
        only the image holds, and what `store.require` raises."""
        recipe = self._recipe()
        if recipe is None:
            raise ConfigError(
                "--newest reads the addresses of the data in a recipe that is here, and"
                f" {self.recipe} is not"
            )
        paths = {name: recipe.prepare.training[name].path for name in self.data}
        found = {
            name: store.require(path).digest for name, path in paths.items() if store.is_s3(path)
        }
        return self.model_copy(update={"data": {**self.data, **found}})

    def check(self) -> None:
        """Raises ConfigError for a value that a shipped recipe refuses, or data that it has no
        source for."""
        self._recipe()

    def _recipe(self) -> Recipe | None:
        """The recipe as it will be run; None where it lies in the image alone."""
        if self.recipe.endswith((".yaml", ".yml")):
            return None
        sources = load_recipe(self.recipe, [IMAGE, *self.overrides]).prepare.training
        if unknown := sorted(self.data.keys() - sources.keys()):
            there = ", ".join(sorted(sources)) or "none"
            raise ConfigError(
                f"data.{unknown[0]}: the recipe has no prepare.training.{unknown[0]}; its sources"
                f" are: {there}"
            )
        return load_recipe(self.recipe, [IMAGE, *self.changes()])


def read(path: Path) -> Request:
    """Raises ConfigError naming the file and the field."""
    try:
        values = raw_yaml.load(path.read_text())
        found = Request.model_validate(values)
        found.check()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; a request is a file as k8s/gitops/retrain/request.yaml is"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, e['loc'])) or 'request'}: {e['msg']} (got {e['input']!r:.80})"
            for e in error.errors()
        ]
        raise ConfigError(
            f"{path} has {error.error_count()} wrong field(s):\n" + "\n".join(lines)
        ) from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return found


def rendered(request: Request, manifest: Path) -> dict[str, str]:
    """What Argo CD applies of a request, by file name: the pipeline's objects, compiled into
    `manifest`, in the order of their waves, and the environment of who submits.

    The same request and pipeline give the same bytes.
    """
    pipeline, version = yaml.safe_load_all(manifest.read_text())
    for wave, found in enumerate((pipeline, version)):
        found["metadata"]["annotations"] = {
            "argocd.argoproj.io/sync-wave": str(wave),
            # A version that runs refer to outlives the commit that brought it, and is no difference then.
            "argocd.argoproj.io/sync-options": "Prune=false",
            "argocd.argoproj.io/compare-options": "IgnoreExtraneous",
        }
        found["metadata"]["namespace"] = "omnicore"
    return {
        "pipeline.yaml": yaml.safe_dump_all([pipeline, version], sort_keys=False, width=132),
        "submit.env": f"RUN={request.run}\nVERSION={version['metadata']['name']}\n",
    }
