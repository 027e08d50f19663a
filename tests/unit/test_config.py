import hashlib
import re

import pytest
import yaml

from omnicore.config import Config, LoraConfig, digest, raw_yaml
from omnicore.config.recipe import SECTION_STEP, Recipe, load_recipe, parse_recipe, recipe_names
from omnicore.config.renamed import RENAMED
from omnicore.errors import ConfigError
from omnicore.schema import View
from omnicore.steps import STEPS
from tests.errors import refused


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_round_trips(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert (
        parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json"))), name) == recipe
    )


def test_shipped_recipes():
    assert set(recipe_names()) >= {"qwen2.5-omni-3b", "qwen3-vl-audit", "tiny"}


def test_every_step_has_a_section_and_every_section_a_step():
    sections = {
        name
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config)
    }
    assert {
        SECTION_STEP.get(name, name)
        for name in sections - {"profile", "engine", "launcher", "tracker"}
    } == set(STEPS)


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("rlvr.steps=3", lambda r: r.rlvr.steps, 3),
        ("seed=7", lambda r: r.seed, 7),
        ("sft.learning_rate=2.0e-4", lambda r: r.sft.learning_rate, 2e-4),
        ("model=/models/a=b", lambda r: r.model, "/models/a=b"),
        ("probe.draws={text_only: 1}", lambda r: r.probe.draws, {View.text_only: 1}),
        ("probe.draws.text_only=5", lambda r: r.probe.draws[View.text_only], 5),
        (
            "prepare.rlvr_mix.sum=2",
            lambda r: (r.prepare.rlvr_mix["sum"], r.prepare.rlvr_mix["transcript"]),
            (2.0, 0.7),
        ),
        ("report.title=A page", lambda r: r.report.title, "A page"),
        ("promote.min_effect=0.1", lambda r: r.promote.min_effect, 0.1),
    ],
)
def test_override_changes_one_value(override, read, expected):
    base, recipe = load_recipe("tiny"), load_recipe("tiny", [override])
    assert read(recipe) == expected
    changed = {
        name for name in Recipe.model_fields if getattr(base, name) != getattr(recipe, name)
    } - {"distill_probe"}
    assert changed == {override.partition("=")[0].partition(".")[0]}


OWN = {"data": "distill.jsonl", "draws": {View.visual_only: 8}}


@pytest.mark.parametrize(
    ("overrides", "own"),
    [
        ([], {}),
        (["probe.model=m", "probe.engine.retries=1", "probe.draws.text_only=3"], {}),
        (["probe.draws.visual_only=4"], {"draws": {View.visual_only: 4}}),
        (["distill.data=mine.jsonl"], {"data": "mine.jsonl"}),
        (
            ["distill_probe.model=m", "distill_probe.draws={visual_only: 3, text_only: 2}"],
            {"model": "m", "draws": {View.visual_only: 3, View.text_only: 2}},
        ),
    ],
)
def test_distill_probe_defaults_to_probe(overrides, own):
    recipe = load_recipe("tiny", overrides)
    assert recipe.distill_probe == recipe.probe.model_copy(update={**OWN, **own})


def test_distill_probe_url_keeps_the_engine():
    engine = load_recipe(
        "qwen2.5-omni-3b", ["distill_probe.engine.url=http://127.0.0.1:8009/v1"]
    ).distill_probe.engine
    assert (engine.kind, engine.url, engine.concurrency) == ("http", "http://127.0.0.1:8009/v1", 64)


@pytest.mark.parametrize(
    ("override", "code", "field"),
    [
        ("rlvr.stepz=3", "recipe-unknown-field", "rlvr.stepz"),
        ("probe.engine.ulr=3", "recipe-unknown-field", "probe.engine.ulr"),
        ("sft.lora={rnk: 3}", "recipe-unknown-field", "sft.lora.rnk"),
        ("prob.model=x", "recipe-unknown-field", "prob"),
        ("nothing.at=3", "recipe-unknown-field", "nothing"),
        ("probe.draws.text_only=-1", "recipe-invalid-value", "probe"),
        ("probe.temperature=.inf", "recipe-invalid-value", "probe.temperature"),
        ("probe.temperature=nan", "recipe-invalid-value", "probe.temperature"),
        ("sft.learning_rate=1e30", "recipe-invalid-value", "sft.learning_rate"),
        (f"seed={2**32}", "recipe-invalid-value", "seed"),
        ("rlvr.steps=12:30", "recipe-invalid-value", "rlvr.steps"),
        ("rlvr.steps=many", "recipe-invalid-value", "rlvr.steps"),
        ("rlvr.steps=0", "recipe-invalid-value", "rlvr.steps"),
        ("probe.draws.omni=1", "recipe-invalid-value", "probe"),
        ("probe.draws.sideways=1", "recipe-invalid-value", "probe.draws.sideways.[key]"),
        ("prepare.split=train", "recipe-invalid-value", "prepare.split"),
        ("probe.draws=3", "recipe-invalid-value", "probe.draws"),
        ("distill_probe.draws.omni=1", "recipe-invalid-value", "distill_probe"),
        ("distill_probe.engine=http", "recipe-invalid-value", "distill_probe.engine"),
        ("prepare={sft_rows: 20, sft_rows: 30}", "recipe-override-not-yaml", "prepare"),
        ("rlvr.steps", "recipe-override-syntax", None),
        ("=3", "recipe-override-syntax", None),
        ("seed.x=3", "recipe-override-not-section", "seed.x"),
    ],
)
def test_wrong_override_is_refused(override, code, field):
    with refused(ConfigError, code, field=field):
        load_recipe("tiny", [override])


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("rlvr.stepz=3", "did you mean steps? rlvr has steps, learning_rate, "),
        ("probe.engine.ulr=3", "did you mean url? probe.engine has kind, url"),
        ("sft.lora={rnk: 3}", "did you mean rank? sft.lora has rank, alpha"),
        ("prob.model=x", "did you mean probe? A recipe has name, seed"),
    ],
)
def test_unknown_field_suggests_the_nearest(override, suggestion):
    with refused(ConfigError, "recipe-unknown-field") as caught:
        load_recipe("tiny", [override])
    assert suggestion in str(caught.value)


def test_all_wrong_fields_are_listed():
    with refused(ConfigError, "recipe-invalid-value", field="seed") as caught:
        load_recipe("tiny", ["rlvr.steps=0", "seed=-1"])
    assert re.findall(r"(?m)^  ([\w.]+): ", str(caught.value)) == ["seed", "rlvr.steps"]


@pytest.mark.parametrize(
    ("content", "code", "field"),
    [
        (None, "recipe-missing", None),
        ("rlvr: [", "recipe-not-yaml", None),
        ("- tiny", "recipe-not-mapping", None),
        ("name: mine", "recipe-missing-field", "probe"),
    ],
)
def test_wrong_recipe_file_is_refused(tmp_path, content, code, field):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with refused(ConfigError, code, field=field) as caught:
        load_recipe(str(path))
    assert "mine.yaml" in str(caught.value)


def test_unknown_recipe_lists_shipped_ones():
    with refused(ConfigError, "recipe-unknown") as caught:
        load_recipe("tinny")
    assert ", ".join(recipe_names()) in str(caught.value)


def test_recipe_file_takes_overrides(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(load_recipe("tiny").model_dump(mode="json")))
    assert load_recipe(str(path), ["seed=4"]) == load_recipe("tiny", ["seed=4"])


def test_override_changes_only_one_anchored_section():
    recipe = load_recipe("qwen2.5-omni-3b", ["sft.lora.rank=8"])
    assert (recipe.sft.lora.rank, recipe.sft_distilled.lora.rank) == (8, 64)


def test_digest_is_of_sorted_fields():
    assert digest({"b": 1, "a": [1, "x"]}) == hashlib.sha256(b'{"a":[1,"x"],"b":1}').hexdigest()
    sft = load_recipe("tiny").sft
    assert (
        digest(sft)
        == digest(sft.model_dump(mode="json"))
        == digest(type(sft).model_validate(sft.model_dump()))
    )
    assert digest(sft) != digest(sft.model_copy(update={"steps": 61}))
    assert digest(
        load_recipe("tiny", ["probe.draws={text_only: 2, visual_only: 8}"]).probe
    ) == digest(load_recipe("tiny", ["probe.draws={visual_only: 8, text_only: 2}"]).probe)


def test_records_are_frozen():
    recipe = load_recipe("tiny")
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3


TEXTS = [
    "12.10",
    "12:30",
    "0755",
    "1_000",
    "no",
    "null",
    "2026-01-01",
    "1e3",
    "0x1F",
    "~",
    "",
    "Run #3",
    "a: b",
    "[x]",
    "a=b",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_override_is_kept_as_written(text):
    recipe = load_recipe(
        "tiny",
        [f"launcher.env.VALUE={text}", f"report.title={text}", f"profile.instruction={text}"],
    )
    assert (recipe.launcher.env["VALUE"], recipe.report.title, recipe.profile.instruction) == (
        text,
        text,
        text,
    )


def test_quoted_text_override_is_yaml():
    assert load_recipe("tiny", ['report.title="a\\tb"']).report.title == "a\tb"


@pytest.mark.parametrize(
    "text", [text for text in TEXTS if text not in ("", "Run #3", "a: b", "[x]")]
)
def test_text_in_recipe_file_is_kept_as_written(tmp_path, text):
    path = tmp_path / "mine.yaml"
    values = load_recipe("tiny").model_dump(mode="json")
    path.write_text(
        yaml.safe_dump({**values, "launcher": {}}).replace(
            "launcher: {}", f"launcher:\n  env: {{A: {text}}}\n  queue: {text}"
        )
    )
    launcher = load_recipe(str(path)).launcher
    assert (launcher.env, launcher.queue) == ({"A": text}, text)


def test_kubernetes_objects_are_yaml():
    recipe = load_recipe(
        "tiny", ["launcher.tolerations=[{key: gpu, tolerationSeconds: 30, value: '12'}]"]
    )
    assert recipe.launcher.tolerations == ({"key": "gpu", "tolerationSeconds": 30, "value": "12"},)


def test_null_leaves_an_optional_section_out():
    assert load_recipe("tiny", ["sft.lora={rank: 4}"]).sft.lora.rank == 4
    assert load_recipe("tiny", ["sft.lora={rank: 4}", "sft.lora=null"]).sft.lora is None


def test_duplicate_key_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nseed: 1\nseed: 2\n")
    with refused(ConfigError, "recipe-not-yaml", path=path) as caught:
        load_recipe(str(path))
    assert "the key 'seed' occurs twice" in str(caught.value)


def numbers(model, path=()):
    """The dotted paths of all numbers of a model."""
    for name, field in model.model_fields.items():
        for kind in raw_yaml.union_members(field.annotation):
            if isinstance(kind, type) and issubclass(kind, Config):
                yield from numbers(kind, (*path, name))
            elif kind in (int, float):
                yield ".".join((*path, name))


@pytest.mark.parametrize(
    "value", ["-1", "nan", ".inf", "-.inf", "1e400", str(10**30), "", "null", "1.5.2", "[]", "{}"]
)
def test_numbers_refuse_absurd_values(value):
    fields = list(numbers(Recipe))
    assert len(fields) > 60
    for field in fields:
        with pytest.raises(ConfigError, match=re.escape(field.rpartition(".")[0] or field)):
            load_recipe("tiny", [f"{field}={value}"])


@pytest.mark.parametrize(
    "field", ["launcher.memory", "launcher.shared_memory", "launcher.cpu", "probe.engine.memory"]
)
@pytest.mark.parametrize(
    "text", ["64GB", "٦٤Gi", "512K", "64 Gi", "64gi", "1e", "Gi", "-1Gi", "1,5Gi", ""]
)
def test_invalid_quantity_is_refused(field, text):
    with refused(ConfigError, "recipe-invalid-value", field=field):
        load_recipe("tiny", [f"{field}={text}"])


@pytest.mark.parametrize(
    "text", ["64Gi", "64G", "500m", "8", "1.5Gi", "+2Ti", "512k", "1e3", "100Mi"]
)
def test_valid_quantity_is_kept_as_written(text):
    assert load_recipe("tiny", [f"launcher.memory={text}"]).launcher.memory == text


def renamed_fields():
    """Every field of a recipe that was renamed: (former dotted path, present dotted path)."""
    for section, field in Recipe.model_fields.items():
        for kind in raw_yaml.union_members(field.annotation):
            for path, model in [((section,), kind), ((section, "lora"), LoraConfig)]:
                if path[-1] == "lora" and "lora" not in getattr(kind, "model_fields", {}):
                    continue
                for parent in model.__mro__:
                    for former, present in RENAMED.get(parent, {}).items():
                        yield ".".join((*path, former)), ".".join((*path, present))


def test_every_renamed_section_is_in_a_recipe():
    sections = {former.split(".")[0] for former, _ in renamed_fields()}
    assert sections == {
        *("tracker", "probe", "second_probe", "distill_probe", "evaluate"),
        *("sft", "rlvr", "distill", "sft_distilled"),
    }


@pytest.mark.parametrize(("former", "present"), renamed_fields())
def test_renamed_field_names_its_successor(former, present):
    with refused(ConfigError, "recipe-renamed-field", field=former) as caught:
        load_recipe("tiny", [f"{former}=1"])
    assert f"{former}: renamed to {present}" in str(caught.value)
    section, *inner = present.split(".")
    fields = LoraConfig if inner[0] == "lora" else Recipe.model_fields[section].annotation
    assert inner[-1] in fields.model_fields
