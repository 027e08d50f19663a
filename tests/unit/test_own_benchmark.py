"""A table of the user's own as a benchmark: formats, columns, answers, media, refusals."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnicore.config.recipe import load_recipe
from omnicore.errors import ConfigError
from omnicore.runtime.run import run_step
from omnicore.schema import Query
from omnicore.storage.files import read_json, read_jsonl
from tests.errors import refused
from tests.media_files import make_tone, make_video


@pytest.fixture(scope="session", autouse=True)
def late_imports() -> None:
    """Import what takes seconds when a test of this file runs, not at collection."""
    global datasets

    import datasets


ROWS: list[dict[str, Any]] = [
    {"q": "What barks?", "choices": ["a dog", "a cat"], "gold": "B", "clip": "a.mp4", "film": "f"},
    {"q": "Which?", "choices": ["x", "y", "z"], "gold": "z", "clip": "b.mp4", "film": "f"},
]
COLUMNS = {"question": "q", "options": "choices", "answer": "gold", "video": "clip"}


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(shade).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "png")
    return buffer.getvalue()


def prepare(tmp_path: Path, source: dict[str, Any], *changes: str) -> list[Query]:
    overrides = [f"prepare.sources.mine={json.dumps(source)}", *changes]
    run_step("prepare", load_recipe("tiny", overrides), {}, tmp_path / "prepared", replace=True)
    return read_jsonl(tmp_path / "prepared" / "queries.jsonl", Query)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    make_video(folder / "a.mp4", 1, 10, (64, 48), 440)
    make_video(folder / "b.mp4", 1, 10, (64, 48), 660)
    return folder


def write_jsonl_file(folder: Path) -> Path:
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def write_json_file(folder: Path) -> Path:
    path = folder / "test.json"
    path.write_text(json.dumps(ROWS, indent=1))
    return path


def write_csv_file(folder: Path) -> Path:
    path = folder / "test.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ROWS[0].keys())
        writer.writeheader()
        for row in ROWS:
            writer.writerow({**row, "choices": json.dumps(row["choices"])})
    return path


def write_parquet_file(folder: Path) -> Path:
    datasets.Dataset.from_list(ROWS).to_parquet(folder / "test.parquet")
    return folder / "test.parquet"


def write_saved_dataset(folder: Path) -> Path:
    datasets.Dataset.from_list(ROWS).save_to_disk(folder / "saved")
    return folder / "saved"


WRITERS = [
    write_jsonl_file,
    write_json_file,
    write_csv_file,
    write_parquet_file,
    write_saved_dataset,
]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_format_gives_the_same_queries(
    clips: Path, tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    source = {"path": str(write(clips)), "media": str(clips), "columns": COLUMNS}
    first, second = prepare(tmp_path, source)
    assert (first.question, first.options, first.answer) == (
        "What barks?",
        ("a dog", "a cat"),
        "a cat",
    )
    assert second.answer == "z"
    assert [medium.kind for medium in first.media] == ["video", "audio"]
    assert first.media[0].sha256 == first.media[1].sha256 != second.media[0].sha256
    assert [query.id for query in (first, second)] == ["000000", "000001"]
    info = read_json(tmp_path / "prepared" / "benchmarks.json")
    assert [(one["name"], one["queries"], one["filter_policy"]) for one in info] == [
        ("mine", 2, "filtered")
    ]


def test_clusters_types_ids_and_clips_are_read(clips: Path, tmp_path: Path) -> None:
    rows = [{**row, "key": f"k{i}", "from": 0.2, "to": "0.8"} for i, row in enumerate(ROWS)]
    path = clips / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = COLUMNS | {"cluster": "film", "id": "key", "start": "from", "end": "to"}
    first, second = prepare(tmp_path, {"path": str(path), "columns": columns})
    assert first.cluster == second.cluster == "f"
    assert (first.id, first.media[1].start, first.media[1].end) == ("k0", 0.2, 0.8)


def write_tsv(path: Path, *rows: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    return path


def encoded(shade: int) -> str:
    return base64.b64encode(picture(shade)).decode()


HEADER = ["index", "image", "question", "A", "B", "C", "answer", "category"]


def test_vlmevalkit_tables_hold_pictures_and_letters(tmp_path: Path) -> None:
    """Options in columns; a picture may be the index of an earlier or a later row."""
    path = write_tsv(
        tmp_path / "MyBench.tsv",
        HEADER,
        ["0", "1", "Which?", "red", "blue", "", "B", "colour"],
        ["1", encoded(1), "And now?", "red", "blue", "green", "C", "colour"],
        ["2", "1", "Again?", "red", "blue", "", "A", "colour"],
    )
    columns = {"id": "index", "type": "category"}
    first, second, third = prepare(tmp_path, {"path": str(path), "columns": columns})
    assert (first.options, first.answer) == (("red", "blue"), "blue")
    assert (second.options, second.answer) == (("red", "blue", "green"), "green")
    assert first.media == second.media == third.media
    stored = tmp_path / "prepared" / first.media[0].uri
    assert stored.read_bytes() == picture(1)


def test_vlmevalkit_cells_may_hold_several_pictures(tmp_path: Path) -> None:
    row = ["0", str([encoded(1), encoded(2)]), "Which?", "red", "blue", "", "B", "colour"]
    path = write_tsv(tmp_path / "MyBench.tsv", HEADER, row)
    (query,) = prepare(tmp_path, {"path": str(path)})
    contents = [(tmp_path / "prepared" / medium.uri).read_bytes() for medium in query.media]
    assert contents == [picture(1), picture(2)]


def test_vlmevalkit_pictures_may_be_files(tmp_path: Path) -> None:
    """The form of EvalScope's guide to own multiple-choice tables, paths made relative."""
    (tmp_path / "dog.png").write_bytes(picture(3))
    path = write_tsv(
        tmp_path / "custom_mcq.tsv",
        ["index", "category", "answer", "question", "A", "B", "C", "D", "image_path"],
        ["1", "Animals", "A", "Which one?", "Dog", "Cat", "Tiger", "Elephant", "dog.png"],
    )
    (query,) = prepare(tmp_path, {"path": str(path)})
    assert query.answer == "Dog"
    assert [medium.kind for medium in query.media] == ["image"]


def test_embedded_features_of_a_dataset_become_files(tmp_path: Path) -> None:
    make_tone(tmp_path / "a.wav", 440, 1.0)
    # Encoding the feature Audio needs torchcodec; stored, it is the same struct.
    stored = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    rows = {
        "question": ["What is heard?"],
        "options": [["a bell", "a drum"]],
        "answer": ["a bell"],
        "image": [{"bytes": picture(2), "path": None}],
        "audio": [{"bytes": (tmp_path / "a.wav").read_bytes(), "path": "a.wav"}],
    }
    features = datasets.Features(
        {
            "question": datasets.Value("string"),
            "options": datasets.List(datasets.Value("string")),
            "answer": datasets.Value("string"),
            "image": datasets.Image(),
            "audio": stored,
        }
    )
    datasets.Dataset.from_dict(rows, features).save_to_disk(tmp_path / "saved")
    (query,) = prepare(tmp_path, {"path": str(tmp_path / "saved")})
    assert [medium.kind for medium in query.media] == ["image", "audio"]
    assert (tmp_path / "prepared" / query.media[0].uri).read_bytes() == picture(2)


def test_a_name_without_suffix_finds_its_clip(clips: Path, tmp_path: Path) -> None:
    """Video-MME's rows name the video by its id; options carry their letters."""
    row = {
        "question_id": "001-1",
        "question": "Which has the largest number?",
        "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. All the same."],
        "answer": "C",
        "videoID": "a",
    }
    (clips / "a.srt").write_text("1")
    path = clips / "test.jsonl"
    path.write_text(json.dumps(row))
    columns = {"id": "question_id", "video": "videoID"}
    (query,) = prepare(tmp_path, {"path": str(path), "columns": columns})
    assert (query.answer, query.options[0]) == ("Berries.", "Apples.")
    assert [medium.kind for medium in query.media] == ["video", "audio"]


def test_a_table_without_media_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"question": "Which?", "options": ["x", "y"], "answer": "A", "movie": "a.mp4"})
    )
    prepare(tmp_path, {"path": str(tmp_path / "a.jsonl")})
    assert "mine: no query has a picture, sound or video" in caplog.text


ANSWERS = {
    "letter in brackets": ({"answer": "(b)"}, ("choice", ["y"])),
    "text of an option": ({"answer": "z"}, ("choice", ["z"])),
    "letters": ({"answer": "A, C"}, ("set", ["x", "z"])),
    "list": ({"answer": ["C", "x"]}, ("set", ["z", "x"])),
    "yes": ({"answer": "yes", "options": None}, ("yes_no", ["Yes"])),
    "number": ({"answer": "1,200", "options": None}, ("number", ["1200"])),
    "words": ({"answer": "a violin", "options": None}, ("text", ["a violin"])),
    "option columns": ({"answer": "B", "options": None, "A": "x", "B": "y"}, ("choice", ["y"])),
    "nested": ({"doc": {"q": "How?"}, "answer": "A"}, ("choice", ["x"])),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_read_as_people_write_them(tmp_path: Path, name: str) -> None:
    fields, (kind, answers) = ANSWERS[name]
    row = {"question": "Which?", "options": ["x", "y", "z"]} | fields
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    columns = {"question": "doc.q"} if "doc" in fields else {}
    (query,) = prepare(tmp_path, {"path": str(tmp_path / "a.jsonl"), "columns": columns})
    assert (str(query.answer_kind), [query.answer, *query.also]) == (kind, answers)
    assert query.question == ("How?" if columns else "Which?")


PROBLEMS = {
    "a number as an option": ({"answer": 1}, "answer", "0 or 1"),
    "a letter too far": ({"answer": "D"}, "answer", "names none of the 2 options"),
    "no answer": ({"answer": ""}, "answer", "is missing"),
    "no question": ({"question": " "}, "question", "is missing"),
    "a missing clip": ({"video": "gone.mp4"}, "video", "gone.mp4"),
    "a clip outside": ({"video": "../a.mp4"}, "video", "outside"),
    "no time": ({"start": "soon"}, "start", "not a number of seconds"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_bad_row_is_listed_by_line_and_column(tmp_path: Path, name: str) -> None:
    fields, column, said = PROBLEMS[name]
    good = {"question": "Which?", "options": ["x", "y"], "answer": "A", "id": "good"}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | {"id": "bad"} | fields))
    queries = prepare(tmp_path, {"path": str(path)}, "prepare.max_refused=0.5")
    assert [query.id for query in queries] == ["good"]
    (problem,) = read_jsonl(tmp_path / "prepared" / "problems.jsonl", dict)
    assert (problem["line"], problem["id"], problem["field"]) == (2, "bad", column)
    assert said in problem["message"]


def test_a_missing_column_names_those_that_exist(clips: Path, tmp_path: Path) -> None:
    path = write_jsonl_file(clips)
    with refused(ConfigError, "benchmark-column-missing", field="question") as caught:
        prepare(tmp_path, {"path": str(path)})
    assert "q, choices, gold, clip, film" in str(caught.value)
    with refused(ConfigError, "benchmark-column-missing", field="video"):
        prepare(tmp_path, {"path": str(path), "columns": COLUMNS | {"video": "movie"}})


def test_a_folder_of_two_formats_is_ambiguous(clips: Path, tmp_path: Path) -> None:
    write_jsonl_file(clips)
    write_csv_file(clips)
    field = "prepare.sources.mine.files"
    with refused(ConfigError, "benchmark-file-ambiguous", field=field):
        prepare(tmp_path, {"path": str(clips), "columns": COLUMNS})


def test_a_public_name_is_not_taken(clips: Path, tmp_path: Path) -> None:
    source = {"path": str(write_jsonl_file(clips)), "columns": COLUMNS}
    recipe = load_recipe("tiny", [f"prepare.sources.daily_omni={json.dumps(source)}"])
    with refused(ConfigError, "benchmark-name-taken", field="prepare.sources.daily_omni"):
        run_step("prepare", recipe, {}, tmp_path / "prepared")


def test_a_sample_is_seeded_and_reads_few_media(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = {"question": "Which?", "options": ["x", "y"], "answer": "A"}
    path.write_text("".join(json.dumps(row | {"id": f"q{i}"}) + "\n" for i in range(50)))
    source = {"path": str(path)}

    def ids(*changes: str) -> list[str]:
        return [query.id for query in prepare(tmp_path, source, *changes)]

    assert ids("prepare.limit=3") == ["q0", "q1", "q2"]
    one, again = ids("prepare.sample=5"), ids("prepare.sample=5")
    other = ids("prepare.sample=5", "seed=1")
    assert one == again != other
    assert len(one) == 5
    assert set(ids("prepare.limit=10", "prepare.sample=4")) <= {f"q{i}" for i in range(10)}


def test_an_installed_package_brings_an_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A distribution with the entry point, as pip would install it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_bench.py").write_text(
        "from omnicore.data.benchmarks import omnibench as _of\n"
        "ENTRY = _of.ENTRY.model_copy(update={'name': 'my_bench', 'annotations': ('a.jsonl',)})\n"
        "def read_rows(source): return source.jsonl_rows(source.layout)\n"
        "def build_query(source, row):\n"
        "    from omnicore.schema import Query\n"
        "    return Query(benchmark='my_bench', type='t', cluster='c', **row.fields)\n"
        "def official_score(query, reply): return 0.25\n"
    )
    info = tmp_path / "my_bench-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-bench\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[omnicore.benchmarks]\nmy_bench = my_bench\n")
    row = {"id": "1", "question": "Which?", "options": ["x", "y"], "answer": "x"}
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "a.jsonl").write_text(json.dumps(row))
    recipe = load_recipe("tiny", [f"prepare.sources.my_bench={tmp_path / 'copy'}"])
    run_step("prepare", recipe, {}, tmp_path / "prepared")
    (query,) = read_jsonl(tmp_path / "prepared" / "queries.jsonl", Query)
    assert query.key == ("my_bench", "1")
