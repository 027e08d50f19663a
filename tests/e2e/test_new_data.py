"""New data in a real bucket: a request on what is published by now is another request, and
`prepare` reads the very revision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from omnicore.cli.main import main
from omnicore.config.recipe import load_recipe
from omnicore.errors import ConfigError, DataError
from omnicore.schema import Query
from omnicore.steps import prepare
from omnicore.storage import store
from omnicore.storage.files import read_jsonl, write_jsonl
from tests.errors import refused
from tests.kfp_server import Kfp, kfp
from tests.seaweed import BUCKET, seaweed, signed_in

__all__ = ["kfp", "seaweed", "signed_in"]
DATA = f"s3://{BUCKET}/data/mine"
SOURCE = {"format": "queries", "path": DATA, "files": "rows.jsonl", "stages": ["rlvr"]}
SMALL = [
    "prepare.scale=0.02",
    "prepare.controls=4",
    "prepare.sft_rows=8",
    "prepare.rlvr_prompts=8",
    "prepare.distill_prompts=8",
]


def publish(folder: Path, rows: int) -> str:
    """Digest of so many rows, published."""
    folder.mkdir(exist_ok=True)
    made = (
        Query(
            benchmark="mine",
            id=str(n),
            type="sum",
            question="One?",
            options=("1", "2"),
            answer="1",
            cluster="c",
        )
        for n in range(rows)
    )
    write_jsonl(folder / "rows.jsonl", made)
    return store.publish(folder, DATA).digest


def request(folder: Path, revision: str) -> Path:
    path = folder / "request.yaml"
    values = {
        "recipe": "tiny",
        "model": "embedded:tiny-base",
        "reason": "a try",
        "data": {"mine": revision},
    }
    path.write_text(
        yaml.safe_dump(
            {**values, "overrides": [f"prepare.training={json.dumps({'mine': SOURCE})}"]}
        )
    )
    return path


def test_only_new_data_starts_a_run(
    signed_in: None, kfp: Kfp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = request(tmp_path, publish(tmp_path / "data", 2))
    command = [
        "cluster",
        "submit",
        "--request",
        str(path),
        "--host",
        kfp.url,
        "--param",
        "champion=s3://b/x",
    ]
    for options in (
        [],
        ["--newest"],
        ["--newest"],
    ):  # a commit, then a CronJob that finds nothing new
        assert main([*command, *options]) == 0
    assert len(kfp.runs) == 1
    digest = publish(tmp_path / "data", 3)
    for _ in range(2):
        assert main([*command, "--newest"]) == 0
    assert len({run["display_name"] for run in kfp.runs}) == len(kfp.runs) == 2
    overrides = json.loads(kfp.runs[1]["runtime_config"]["parameters"]["overrides"])
    assert overrides[-1] == f'prepare.training.mine.revision="{digest}"'


def test_prepare_reads_the_pinned_revision(signed_in: None, tmp_path: Path) -> None:
    digest = publish(tmp_path / "data", 2)

    def prepared(revision: str) -> list[Query]:
        source = json.dumps({"mine": {**SOURCE, "revision": revision}})
        recipe = load_recipe("tiny", [*SMALL, f"prepare.training={source}"])
        output = tmp_path / (revision[:8] or "none")
        output.mkdir()
        prepare.prepare_training(recipe, recipe.prepare, output)
        assert not (output / "scratch").exists()
        return read_jsonl(output / "rlvr.jsonl", Query)

    assert {row.id for row in prepared(digest)} == {"0", "1"}
    field = "prepare.training.mine.revision"
    with refused(DataError, "training-source-revision-changed", field=field) as caught:
        prepared("c" * 64)
    assert digest in str(caught.value)
    with refused(ConfigError, "training-source-revision-missing", field=field):
        prepared("")
