"""The retrain request: a small file in git that names recipe, data, base model and reason.

Its run is named by its content, so a request runs once, whether a commit, a schedule, new data in
the bucket or a person submits it. All of them call `omnicore cluster submit --request`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from omnicore.config import Config, digest, raw_yaml
from omnicore.config.recipe import Recipe, load_recipe
from omnicore.errors import ConfigError, OmniError
from omnicore.storage import store

PIPELINE = "retrain"
IMAGE = "launcher.image=of-the-pipeline"  # jobs take the image that the pipeline was compiled with


class RetrainRequest(Config):
    """Content of `request.yaml`.

    Only the values count: the same request in another order, or with other comments, is the same
    run.
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
            "benchmarks of the evaluation: hub@COMMIT, 40 hex digits, or a folder of the image."
            " {}: the recipe's"
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
        """Return everything that it changes in the recipe, as overrides."""
        pinned = [
            f"prepare.training.{name}.revision={json.dumps(revision)}"
            for name, revision in sorted(self.data.items())
        ]
        return [*self.overrides, *pinned]

    def parameters(self) -> dict[str, object]:
        """Return the pipeline's parameters other than recipe, overrides and the run's name."""
        return {"model": self.model, "benchmarks": self.benchmarks}

    def newest(self) -> RetrainRequest:
        """Return this request with the newest revision of each s3:// data set that `data` pins.

        Raises:
            ConfigError: The recipe lies in the pipeline's image only.
            OmniError: The store's errors (`store.require`).
        """
        recipe = self._recipe()
        if recipe is None:
            raise ConfigError(
                "--newest reads the addresses of the data in a shipped recipe, and"
                f" {self.recipe} is only in the pipeline's image",
                code="request-recipe-not-local",
                field="recipe",
            )
        revisions = dict(self.data)
        for name in self.data:
            path = recipe.prepare.training[name].path
            if store.is_s3(path):
                revisions[name] = store.require(path).digest
        return self.model_copy(update={"data": revisions})

    def check(self) -> None:
        """Check the values against the shipped recipe.

        Raises:
            ConfigError: The recipe refuses a value, or has no such data source.
        """
        self._recipe()

    def _recipe(self) -> Recipe | None:
        """Return the recipe as it will run; None where only the image has it."""
        if self.recipe.endswith((".yaml", ".yml")):
            return None
        sources = load_recipe(self.recipe, [IMAGE, *self.overrides]).prepare.training
        unknown = sorted(self.data.keys() - sources.keys())
        if unknown:
            names = ", ".join(sorted(sources)) or "none"
            raise ConfigError(
                f"data.{unknown[0]}: the recipe has no prepare.training.{unknown[0]}; its sources"
                f" are: {names}",
                code="request-data-unknown",
                field=f"data.{unknown[0]}",
            )
        return load_recipe(self.recipe, [IMAGE, *self.changes()])


def read_request(path: Path) -> RetrainRequest:
    """Read and check a request.

    Raises:
        ConfigError: The file is missing, is not YAML, or has a wrong field.
    """
    try:
        request = RetrainRequest.model_validate(raw_yaml.load(path.read_text()))
        request.check()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; a request has the form of k8s/gitops/retrain/request.yaml",
            code="request-unreadable",
            path=path,
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{path} is not YAML: {error}", code="request-not-yaml", path=path
        ) from error
    except ValidationError as error:
        raise _wrong_fields(path, error) from error
    except ConfigError as error:
        details = error.details() | {"path": path}
        raise ConfigError(f"{path}: {error}", **details) from error
    return request


def _wrong_fields(path: Path, error: ValidationError) -> OmniError:
    lines, fields = [], []
    for entry in error.errors():
        field = ".".join(map(str, entry["loc"])) or "request"
        fields.append(field)
        lines.append(f"  {field}: {entry['msg']} (got {entry['input']!r:.80})")
    return ConfigError(
        f"{path} has {error.error_count()} wrong field(s):\n" + "\n".join(lines),
        code="request-field-invalid",
        field=fields[0],
        path=path,
    )
