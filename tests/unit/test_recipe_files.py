"""Recipes that extend others, explained, compared and described for editors."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from omnicore.config import explain
from omnicore.config.recipe import Recipe, load_recipe, recipe_names
from omnicore.errors import ConfigError
from omnicore.schema import View
from tests.errors import refused


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_a_file_takes_over_what_it_does_not_give(tmp_path: Path) -> None:
    file = write(
        tmp_path / "mine.yaml",
        "extends: tiny\nseed: 7\nrlvr: {steps: 3}\nprobe: {draws: {visual_only: 4}}\n",
    )
    recipe, tiny = load_recipe(file), load_recipe("tiny")
    assert (recipe.name, recipe.seed, recipe.rlvr.steps) == ("mine", 7, 3)
    assert recipe.rlvr.learning_rate == tiny.rlvr.learning_rate
    assert recipe.probe.model == tiny.probe.model
    assert recipe.probe.draws == {View.visual_only: 4}
    assert recipe.sft == tiny.sft


def test_files_extend_one_another_by_their_own_folder(tmp_path: Path) -> None:
    write(tmp_path / "base" / "common.yaml", "extends: tiny\nsft: {steps: 9}\nseed: 1\n")
    file = write(tmp_path / "runs" / "a.yaml", "extends: ../base/common.yaml\nname: own\nseed: 2\n")
    recipe = load_recipe(file, ["seed=3"])
    assert (recipe.name, recipe.seed, recipe.sft.steps) == ("own", 3, 9)


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    write(
        tmp_path / "base" / "common.yaml",
        "extends: tiny\nmodel: ./checkpoint\nprofile: {instruction: ./as it is}\n",
    )
    file = write(
        tmp_path / "runs" / "a.yaml",
        "extends: ../base/common.yaml\nprepare: {sources: {mine: {path: ../data/q.jsonl}}}\n",
    )
    recipe = load_recipe(file)
    assert recipe.model == str(tmp_path / "base" / "checkpoint")
    source = recipe.prepare.sources["mine"]
    assert not isinstance(source, str)
    assert source.path == str(tmp_path / "data" / "q.jsonl")
    assert recipe.profile.instruction == "./as it is"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("extends: absent\n", "recipe-unknown"),
        ("extends: gone.yaml\n", "recipe-missing"),
        ("extends: [tiny]\n", "recipe-extends-invalid"),
        ("extends: a.yaml\n", "recipe-extends-itself"),
    ],
)
def test_a_wrong_extends_is_refused(tmp_path: Path, text: str, code: str) -> None:
    file = write(tmp_path / "a.yaml", text)
    with refused(ConfigError, code):
        load_recipe(file)


def test_every_field_has_type_default_and_limits() -> None:
    fields = {field.path: field for field in explain.explain("")}
    draws = fields["probe.draws"]
    assert draws.kind == ("mapping of one of omni, visual_only, audio_only, text_only to integer")
    assert "per query" in draws.description
    assert (fields["clean.max_fdr"].kind, fields["clean.max_fdr"].limits) == (
        "number",
        "> 0 and < 1",
    )
    assert fields["probe.engine.timeout"].decides is False
    assert fields["probe.engine.kind"].decides is True
    assert fields["threads"].default == "2"


def test_a_section_lists_its_fields_alone() -> None:
    paths = [field.path for field in explain.explain("clean")]
    assert "clean.policy" in paths
    assert all(path.startswith("clean.") for path in paths)


@pytest.mark.parametrize(
    ("path", "hint"),
    [("probe.draw", "probe.draws"), ("max_fdr", "clean.max_fdr"), ("rlvr.stepz", "rlvr.steps")],
)
def test_an_unknown_field_names_the_nearest(path: str, hint: str) -> None:
    with refused(ConfigError, "recipe-unknown-field", field=path) as caught:
        explain.explain(path)
    assert hint in str(caught.value)


def test_differences_are_the_changed_fields(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.yaml", "extends: tiny\nseed: 7\nrlvr: {steps: 3}\n")
    differences = explain.named_difference("tiny", file)
    assert differences == [
        explain.Difference("seed", 0, 7),
        explain.Difference("rlvr.steps", load_recipe("tiny").rlvr.steps, 3),
    ]


def test_a_section_of_a_recipe_is_shown() -> None:
    recipe = load_recipe("tiny")
    assert (
        explain.section(recipe, "probe.draws") == recipe.model_dump(mode="json")["probe"]["draws"]
    )
    with refused(ConfigError, "recipe-unknown-field", field="probe.draw"):
        explain.section(recipe, "probe.draw")


def test_the_schema_takes_shipped_recipes_and_refuses_typos() -> None:
    schema = explain.json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    for name in recipe_names():
        text = Path(explain.__file__).parent.joinpath("recipes", f"{name}.yaml").read_text()
        assert list(validator.iter_errors(yaml.safe_load(text))) == []
    assert list(validator.iter_errors({"extends": "tiny", "seed": 3})) == []
    (error,) = validator.iter_errors({"extends": "tiny", "probes": {}})
    assert "probes" in error.message
    assert set(schema["properties"]) == {*Recipe.model_fields, "extends"}
