import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import omnicore
from omnicore.cli.main import main
from omnicore.config.recipe import load_recipe
from omnicore.errors import EngineError
from omnicore.steps import STEPS
from omnicore.storage.files import read_json

ROOT = Path(omnicore.__file__).parents[1]


@pytest.fixture
def prepare(monkeypatch):
    """A prepare step that writes one file, or raises what the test puts into `error`."""

    def run(recipe, config, inputs, output):
        if module.error:
            raise module.error
        (output / "queries.jsonl").write_text(f"{config.controls} {recipe.seed}\n")
        return {"queries": config.controls}

    module = ModuleType("prepare")
    module.run, module.error = run, None
    monkeypatch.setitem(sys.modules, "omnicore.steps.prepare", module)
    return module


def helped(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main([*argv, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_teaches_every_step(capsys):
    text = helped(capsys)
    assert "prepare -> probe -> clean" in text
    for name in (*STEPS, "recipe show tiny", "cluster"):
        assert name in text


@pytest.mark.parametrize("name", STEPS)
def test_step_help_lists_inputs_and_files(capsys, name):
    text = helped(capsys, name)
    for role, of in {**STEPS[name].required, **STEPS[name].optional}.items():
        assert f"{role:<17} output of {' or '.join(of)}" in text
    assert STEPS[name].writes in text
    assert ("absent: the recipe's model" in text) is ("model" in STEPS[name].reads)


def test_examples_are_valid_commands(capsys):
    commands = helped(capsys).replace("\\\n", " ").splitlines()
    examples = [line.split() for line in commands if line.startswith("  omnicore ")]
    assert len(examples) >= 8
    for _, step, *options in examples:
        if step == "recipe":
            assert main([step, *options]) == 0
            continue
        given = {text.partition("=")[0] for flag, text in pairwise(options) if flag == "--input"}
        assert set(STEPS[step].required) <= given <= {*STEPS[step].required, *STEPS[step].optional}


def test_help_loads_nothing_heavy():
    heavy = {
        "pydantic",
        "yaml",
        "rich",
        "prometheus_client",
        "numpy",
        "torch",
        "transformers",
        "kfp",
        "omnicore.config",
        "omnicore.runtime.run",
    }
    code = (
        "import sys; from omnicore.cli.main import main\ntry: main(['--help'])\nexcept SystemExit:"
        " print(*sys.modules, file=sys.stderr)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stderr.split()
    assert not heavy & set(loaded)
    assert "omnicore.steps" in loaded


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"omnicore {omnicore.__version__}\n"


def test_recipes_are_listed_and_shown(capsys):
    assert main(["recipe", "list"]) == 0
    assert "tiny" in capsys.readouterr().out.splitlines()
    assert main(["recipe", "show", "tiny", "--set", "rlvr.steps=7", "--set", "seed=3"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown == load_recipe("tiny", ["rlvr.steps=7", "seed=3"]).model_dump(mode="json")


def test_step_runs_once(prepare, tmp_path, capsys):
    argv = [
        "prepare",
        "--set",
        "prepare.controls=8",
        "--set",
        "seed=5",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(argv) == 0
    assert (tmp_path / "out" / "queries.jsonl").read_text() == "8 5\n"
    assert read_json(tmp_path / "out" / "step.json")["seed"] == 5
    assert main(argv) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("prepare: 0.0 s")
    assert second == "prepare: done before  queries 8"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["evalute", "--output", "x"],
            "no command 'evalute'; did you mean evaluate? Its commands: prepare, probe",
        ),
        (["zzz"], "no command 'zzz'. Its commands: prepare"),
        (["cluster", "submitt"], "omnicore cluster has no command 'submitt'; did you mean submit?"),
        (["recipes"], "run `omnicore recipe list` [cli-command-renamed]"),
        (["reap", "--dry-run"], "run `omnicore cluster reap` [cli-command-renamed]"),
        (["submit"], "run `omnicore cluster submit` [cli-command-renamed]"),
        (["deploy"], "run `omnicore cluster deploy` [cli-command-renamed]"),
        (["cluster"], "omnicore cluster: the following arguments are required: command"),
        (["compare", "a"], "see `omnicore compare --help` [cli-usage]"),
        (["--log-format", "xml", "zzz"], "[log-format-unknown]"),
        (["prepare", "--recipe", "tinny", "--output", "x"], "tinny"),
        (["prepare", "--set", "prepare.scale=2", "--output", "x"], "prepare.scale"),
        (["prepare", "--benchmark", "daily_omni", "--output", "x"], "[cli-benchmark-without-root]"),
        (["probe", "--input", "queries", "--output", "x"], "[cli-input-invalid]"),
        (
            ["probe", "--input", "queries=a", "--input", "queries=b", "--output", "x"],
            "--input queries is given twice: a and b [cli-input-twice]",
        ),
        (["probe", "--input", "queries=absent", "--output", "x"], "absent: no such directory"),
        (["probe", "--output", "x"], "input 'queries' is missing"),
        (["probe", "--input", "queries=x"], "[cli-output-missing]"),
        (["probe", "--input", "queries=s3://b/x", "--dry-run"], "[cli-dry-run-remote-input]"),
        (["recipe", "show", "absent.yaml"], "recipe absent.yaml: no such file"),
    ],
)
def test_mistake_is_one_message_and_exit_2(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("omnicore: ")
    assert words in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["before", "after"])
def test_log_format_is_accepted_anywhere(place, capsys):
    argv = ["--log-format", "json", "zzz"] if place == "before" else ["zzz", "--log-format=json"]
    assert main(argv) == 2
    entry = json.loads(capsys.readouterr().err)
    assert (entry["code"], entry["field"]) == ("cli-unknown-command", "zzz")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (EngineError("no answer"), 2, "omnicore: no answer\n"),
        (KeyboardInterrupt(), 130, "interrupted; re-run the same command to resume\n"),
    ],
)
def test_stopped_step_logs_one_line(prepare, tmp_path, capsys, error, status, message):
    prepare.error = error
    assert main(["prepare", "--output", str(tmp_path / "out")]) == status
    assert capsys.readouterr() == ("", message)
    assert not (tmp_path / "out" / "step.json").exists()


def test_bug_keeps_its_traceback(prepare, tmp_path):
    prepare.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["prepare", "--output", str(tmp_path / "out")])


def test_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "omnicore", "rlvrr"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("omnicore: omnicore has no command 'rlvrr'; did you mean rlvr?")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (
            ["probe", "--recpie", "tiny"],
            (
                "omnicore probe has no option --recpie; did you mean --recipe? Its options: --help,"
                " --recipe,"
            ),
        ),
        (["prepare", "--output", "x", "--benchmrk=a"], "did you mean --benchmark?"),
        (
            ["manifest", "show", "--sort", "m.json"],
            "omnicore manifest show has no option --sort. Its options: --help",
        ),
        (["clean", "--output", "x", "stray"], "omnicore clean has no option stray."),
    ],
)
def test_unknown_option_names_the_nearest(capsys, argv, told):
    assert main(argv) == 2
    assert told in capsys.readouterr().err


def test_threads_are_limited_to_the_cores():
    recipe = load_recipe("tiny", ["threads=1000"])
    assert recipe.cores == len(os.sched_getaffinity(0))
    assert load_recipe("tiny", ["threads=1"]).cores == 1
