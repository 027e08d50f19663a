"""Manifests as files: what show and diff say, tables in and out, and that an imported one is an
input of evaluate."""

import csv
import json
import subprocess
import sys

import pytest

from omnicore import audit
from omnicore.audit import manifest_io, manifest_table
from omnicore.cli.main import main
from omnicore.config.recipe import load_recipe
from omnicore.errors import ConfigError, DataError
from omnicore.evaluation.verdicts import read_manifest
from omnicore.lineage.step_record import write_step
from omnicore.runtime.run import run_step
from omnicore.schema import BenchmarkInfo, Label, Query, Verdict
from omnicore.steps import evaluate
from omnicore.storage.files import read_json, write_json, write_jsonl
from tests.errors import refused

S, N, U, W = Label.solvable, Label.not_solvable, Label.undecided, Label.kept_whole
NAMES = {"daily_omni": 4, "world_sense": 3, "yew": 2}


def verdict(benchmark, name, label, hits=0, null=1.0):
    return Verdict(
        benchmark=benchmark, id=name, label=label, hits=hits, draws=8, null=null, binomial=null
    )


def make(*labels, policy="repeated", probe="a", profile="p" * 64, seed=0):
    """One verdict of daily_omni for each label, two of yew kept whole."""
    found = [
        verdict("daily_omni", f"{i:04d}", label, 7 if label is S else 1, 0.004)
        for i, label in enumerate(labels)
    ]
    return audit.build_manifest(
        policy, probe, profile, [*found, verdict("yew", "x", W), verdict("yew", "y", W)], seed
    )


@pytest.fixture
def prepared(tmp_path):
    """A finished output of prepare."""
    folder = tmp_path / "prepare"
    folder.mkdir()
    shared = {"type": "t", "question": "?", "options": ("1", "2"), "answer": "1", "cluster": "c"}
    queries = [
        Query(benchmark=name, id=f"{i:04d}", **shared)
        for name, count in NAMES.items()
        for i in range(count)
    ]
    infos = [
        BenchmarkInfo(name=name, queries=count, filter_policy="filtered")
        for name, count in NAMES.items()
    ]
    write_jsonl(folder / "queries.jsonl", queries)
    write_jsonl(folder / "controls.jsonl", [])
    write_json(folder / "benchmarks.json", [info.model_dump(mode="json") for info in infos])
    write_step(
        folder, {"step": "prepare", "section": "prepare", "key": "k", "seconds": 1.0, "summary": {}}
    )
    return folder


def table(path, rows, columns=("benchmark", "id")):
    """Writes (benchmark, id) rows by suffix."""
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
    elif path.suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
        )
    else:
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(
            arrow.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))), path
        )
    return path


def take(path, prepared, listed="kept", columns=("benchmark", "id")):
    return manifest_table.import_table(path, columns, listed, prepared)


def labels(manifest):
    return {(v.benchmark, v.id): v.label for v in manifest.verdicts}


def test_show_counts_by_benchmark():
    lines = manifest_io.format_manifest(make(S, S, N, U, seed=3)).splitlines()
    assert lines[:4] == ["policy   repeated", "probe    a", f"profile  {'p' * 64}", "seed     3"]
    assert [line.split() for line in lines[6:]] == [
        ["benchmark", "kept", "removed", "not", "solvable", "undecided", "whole"],
        ["daily_omni", "2", "2", "1", "1", "0"],
        ["yew", "2", "0", "0", "0", "2"],
        ["all", "4", "2", "1", "1", "2"],
    ]
    assert len({len(line) for line in lines[6:]}) == 1, "columns stand under one another"


def test_diff_says_what_moved_and_why():
    said = manifest_io.diff_manifests(
        make(S, N, N, S, N), make(N, S, U, S, policy="circular", probe="b")
    )
    assert "policy: 'repeated' -> 'circular'" in said
    assert "probe: 'a' -> 'b'" in said
    assert "profile_hash" not in said
    assert "kept -> removed: 1 of 6 queries" in said
    assert (
        "  daily_omni: 1\n    0001: not solvable (1 of 8, null 0.0040) -> removed (7 of 8, null"
        " 0.0040)" in said
    )
    assert "removed -> kept: 1 of" in said
    assert "0000: removed (7 of 8, null 0.0040) -> not solvable" in said
    assert "kept, other label: 1 of" in said
    assert "only the first judges 1: daily_omni 1 (daily_omni/0004 first)" in said


def test_diff_with_itself_is_empty():
    said = manifest_io.diff_manifests(make(S, N), make(S, N))
    assert said.startswith("same policy, probe, profile and seed")
    assert "0 of 4" in said
    assert "->  " not in said
    assert "only" not in said


def test_diff_shows_the_first_examples_of_many():
    said = manifest_io.diff_manifests(make(*[N] * 40), make(*[S] * 40))
    assert "  daily_omni: 40" in said
    assert said.count("-> removed (") == manifest_io.EXAMPLES


ROWS = [("daily_omni", "0001"), ("daily_omni", "0003"), ("world_sense", "0000")]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("listed", ["kept", "removed"])
def test_table_becomes_manifest(prepared, tmp_path, suffix, listed):
    made, counts = take(table(tmp_path / f"list{suffix}", ROWS), prepared, listed)
    inside, outside = (N, S) if listed == "kept" else (S, N)
    assert labels(made) == {
        **{("daily_omni", f"{i:04d}"): inside if i in (1, 3) else outside for i in range(4)},
        **{("world_sense", f"{i:04d}"): inside if i == 0 else outside for i in range(3)},
        **{("yew", f"{i:04d}"): W for i in range(2)},
    }
    assert (made.policy, made.profile_hash, made.probe) == ("imported", "", f"list{suffix}")
    assert counts == {"rows": 3, "repeated": 0, "queries": 9, "kept_whole": 2}
    assert {v.draws for v in made.verdicts} == {0}


def test_hash_ignores_order_format_and_file_name(prepared, tmp_path):
    paths = [tmp_path / "a.csv", tmp_path / "b.jsonl", tmp_path / "c.csv"]
    orders = [ROWS, ROWS[::-1], [*ROWS, ROWS[0]]]
    found = [take(table(path, rows), prepared)[0] for path, rows in zip(paths, orders, strict=True)]
    assert len({m.content_hash for m in found}) == 1
    assert (
        take(table(tmp_path / "d.csv", ROWS[:2]), prepared)[0].content_hash != found[0].content_hash
    )
    assert take(paths[0], prepared, "removed")[0].content_hash != found[0].content_hash
    # Pinned: another machine, version or day must come to the same.
    assert (
        make(S, N).content_hash
        == "a9c1b415fa1f4bf2e5331eca0002a6fac49d8a58180c15c10c9257809273666b"
    )


def test_names_of_benchmarks_and_columns_may_differ(prepared, tmp_path):
    rows = [("Daily-Omni", "0001"), ("WorldSense", "0002")]
    made, _ = take(
        table(tmp_path / "x.csv", rows, ("source", "native id")),
        prepared,
        columns=("source", "native id"),
    )
    assert made.kept() >= {("daily_omni", "0001"), ("world_sense", "0002")}
    numbers = tmp_path / "n.jsonl"
    write_jsonl(
        prepared / "queries.jsonl",
        [
            Query(**{**json.loads(line), "id": str(int(json.loads(line)["id"]))})
            for line in (prepared / "queries.jsonl").read_text().splitlines()
        ],
    )
    made, _ = take(table(numbers, [("daily_omni", 3)]), prepared)
    assert labels(made)["daily_omni", "3"] is N


BAD_ROWS = {
    "unknown ids": (
        [*ROWS, ("daily_omni", "9999"), ("elm", "0001")],
        "table-unknown-query",
        {},
        ["2 of 5 rows", "list.csv:5: daily_omni/9999\n", "list.csv:6: elm/0001"],
    ),
    "many unknown ids": (
        [("elm", str(i)) for i in range(30)],
        "table-unknown-query",
        {},
        ["30 of 30 rows", "list.csv:11: elm/9\n", "  and 20 more"],
    ),
    "empty": ([], "table-empty", {}, []),
    "no id": (
        [("daily_omni", "")],
        "table-missing-value",
        {"line": 2, "field": "id"},
        ["it has benchmark, id"],
    ),
}


@pytest.mark.parametrize(
    ("rows", "code", "details", "values"), BAD_ROWS.values(), ids=list(BAD_ROWS)
)
def test_rows_that_name_no_query_are_listed(prepared, tmp_path, rows, code, details, values):
    with refused(DataError, code, path=tmp_path / "list.csv", **details) as caught:
        take(table(tmp_path / "list.csv", rows), prepared)
    for value in values:
        assert value in str(caught.value)


BAD_FILES = {
    "list.txt": ("x", ConfigError, "table-unknown-suffix", {}),
    "list.jsonl": (
        '{"benchmark": "daily_omni", "id": "0001"}\n{"bench',
        DataError,
        "table-invalid-json",
        {"line": 2},
    ),
    "rows.jsonl": ("[1]\n", DataError, "table-invalid-row", {"line": 1}),
    "list.parquet": ("PAR0", DataError, "table-invalid-parquet", {}),
    "other.csv": (
        "a,b\n1,2\n",
        DataError,
        "table-missing-value",
        {"line": 2, "field": "benchmark"},
    ),
}


@pytest.mark.parametrize(("name", "case"), BAD_FILES.items(), ids=BAD_FILES)
def test_broken_tables_are_refused(prepared, tmp_path, name, case):
    text, error, code, details = case
    (tmp_path / name).write_text(text)
    with refused(error, code, path=tmp_path / name, **details):
        take(tmp_path / name, prepared)


def test_parquet_without_pyarrow_is_refused(prepared, tmp_path, monkeypatch):
    (tmp_path / "list.parquet").write_text("x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with refused(ConfigError, "package-missing", field="pyarrow"):
        take(tmp_path / "list.parquet", prepared)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_exported_lists_import_again(prepared, tmp_path, suffix):
    made, _ = take(table(tmp_path / "list.csv", ROWS), prepared)
    for listed, count in (("kept", 5), ("removed", 4)):
        path = tmp_path / f"{listed}{suffix}"
        assert manifest_table.export_table(made, path, listed) == count
        assert take(path, prepared, listed)[0].kept() == made.kept()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_full_export_holds_evidence_and_is_no_list(prepared, tmp_path, suffix):
    path = tmp_path / f"all{suffix}"
    manifest = make(S, N, U)
    assert manifest_table.export_table(manifest, path, None) == 5
    rows = [row for _, row in manifest_table._read_rows(path)]
    for v, row in zip(manifest.verdicts, rows, strict=True):
        assert (row["benchmark"], row["id"], row["label"]) == (v.benchmark, v.id, v.label)
        assert (int(row["hits"]), float(row["null"]), str(row["kept"])) == (
            v.hits,
            v.null,
            str(v.kept),
        )
    with refused(DataError, "table-holds-verdicts"):
        take(path, prepared)


def test_the_command_line(prepared, tmp_path, capsys):
    path, output = table(tmp_path / "list.csv", ROWS), tmp_path / "imported"
    argv = [
        "manifest",
        "import",
        str(path),
        "--queries",
        str(prepared),
        "--listed",
        "kept",
        "--output",
        str(output),
    ]
    assert main(argv) == 0
    assert "use it: omnicore evaluate --input manifest=" in capsys.readouterr().out
    assert read_json(output / "step.json")["summary"]["kept_imported"] == 5
    digest = read_json(output / "step.json")["digest"]
    assert main(argv) == 0, "an import may be made again"
    assert read_json(output / "step.json")["digest"] == digest
    for action in (
        ["show", output],
        ["diff", output, output / "manifest.json"],
        ["export", output, "--output", tmp_path / "o.csv"],
    ):
        assert main(["manifest", *map(str, action)]) == 0
    assert "daily_omni" in capsys.readouterr().out
    assert (
        (tmp_path / "o.csv")
        .read_text()
        .startswith("benchmark,id,label,hits,draws,null,binomial,kept\ndaily_omni,0000,solvable,")
    )
    assert main([*argv[:-1], str(prepared)]) == 2
    assert "holds no imported manifest" in capsys.readouterr().err
    assert main([*argv, "--columns", "id"]) == 2
    assert main(["manifest", "show", str(path)]) == 2
    assert "is not JSON" in capsys.readouterr().err


def test_show_ends_quietly_when_its_reader_closes(tmp_path):
    many = [f"benchmark-{i:05d}" for i in range(5000)]
    found = audit.build_manifest(
        "repeated", "a", "p" * 64, [verdict(name, "0", N) for name in many]
    )
    write_json(tmp_path / "manifest.json", found)
    command = f"{sys.executable} -m omnicore manifest show {tmp_path} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("policy   repeated\n", "")


def test_evaluate_takes_an_imported_manifest(prepared, tmp_path):
    """The door accepts it as clean's output; evaluate reads it under any profile, and any other
    hash is still refused."""
    output = tmp_path / "imported"
    path = table(tmp_path / "list.csv", ROWS)
    made, counts = take(path, prepared)
    manifest_table.save_imported(made, counts, (path, prepared), output)
    recipe = load_recipe("tiny", ["profile.max_new_tokens=2", "evaluate.ablations=[]"])
    inputs = {"queries": prepared, "manifest": output}
    assert run_step("evaluate", recipe, inputs, tmp_path / "scores")["summary"]["queries"] == 9
    scores = read_json(tmp_path / "scores" / "scores.json")
    assert scores["manifest_hash"] == made.content_hash
    assert scores["clean"]["micro"]["n"] == 5
    write_json(output / "manifest.json", make(S, profile="f" * 64))
    with refused(DataError, "evaluate-manifest-profile-differs", field="profile_hash"):
        evaluate.run(recipe, recipe.evaluate, inputs, tmp_path)


def test_read_manifest_refuses_other_files(tmp_path):
    write_json(tmp_path / "manifest.json", {"policy": "repeated"})
    with refused(DataError, "manifest-invalid", field="probe"):
        read_manifest(tmp_path)
    with refused(DataError, "file-missing"):
        read_manifest(tmp_path / "other.json")
