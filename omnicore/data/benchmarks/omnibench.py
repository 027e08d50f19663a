"""OmniBench: one picture, one sound, four options.

Hub: m-a-p/OmniBench, columns read at eae4327; scorer
github.com/multimodal-art-projection/OmniBench, read at 335f0ba and 21a7f75.

`data/train-*.parquet` holds 1,142 rows with both media inside; `answer` is the text of an option,
and options have no letters. The repackaged lmms-lab-audio/Omni_Bench_fix, lmms-eval's default, has
the same columns without 12 rows whose sound its makers could not load
(EvolvingLMMs-Lab/lmms-eval#613): its scores do not compare with those of the whole set.

`dataset/batch-5_1142_20240817.jsonl` of the publisher's repository has the same fields with paths,
for media in `mm_data/image/` and `mm_data/audio/`, as inference/demo_api_call.py takes them.
"""

from __future__ import annotations

from collections.abc import Iterator

from omnicore.data.benchmarks.fields import item_id, native_fields, with_keys
from omnicore.data.benchmarks.options import (
    answer_letter,
    last_occurring,
    option_by_text,
    split_labels,
)
from omnicore.data.benchmarks.records import AnnotationRow, BenchmarkEntry
from omnicore.data.benchmarks.source import AnnotationSource
from omnicore.data.benchmarks.tables import without_blank_cells
from omnicore.schema import AnswerKind, Media, Query

HUB, REPOSITORY = "data/train-*.parquet", "dataset/*.jsonl"
ENTRY = BenchmarkEntry(
    name="omnibench",
    title="OmniBench",
    source="m-a-p/OmniBench",
    licence="not stated in what was read; see the data set's card",
    size=1142,
    annotations=(HUB, REPOSITORY),
    cluster="picture",
    shares=("task type", "audio type"),
    answer_kinds=(AnswerKind.choice,),
)

_DISPLAYED = {name: name for name in ("audio type", "audio content", "image content", "audio_path")}


def read_rows(source: AnnotationSource) -> Iterator[AnnotationRow]:
    """Yield the items with their ids."""
    return with_keys(_items(source), lambda item: item_id(item, "index"))


def _items(source: AnnotationSource) -> Iterator[AnnotationRow]:
    if source.layout == HUB:
        yield from without_blank_cells(source.parquet_rows(HUB))
        return
    for path in sorted(source.root.glob(REPOSITORY)):
        yield from source.jsonl_rows(str(path.relative_to(source.root)))


def build_query(source: AnnotationSource, row: AnnotationRow) -> Query:
    """Return an item as a query; see `adapter.py`."""
    item = row.fields
    _, options = split_labels("options", item["options"])
    picture, sound = _media(source, row)
    path = item.get("image_path")
    return Query(
        benchmark=ENTRY.name,
        id=item_id(item, "index"),
        type=item["task type"],
        question=item["question"],
        options=tuple(options),
        answer=options[
            item["options"].index(option_by_text("answer", item["answer"], item["options"]))
        ],
        media=(picture, sound),
        cluster=path if path and isinstance(path, str) else picture.sha256[:16],
        native=native_fields(item, _DISPLAYED),
    )


def _media(source: AnnotationSource, row: AnnotationRow) -> tuple[Media, Media]:
    """Return picture and sound of an item."""
    item, media = row.fields, source.media
    if source.layout == HUB:
        picture = media.embedded("image", "image", item.get("image"))
        return picture, media.embedded("audio", "audio", item.get("audio"))
    image, audio = item["image_path"], item["audio_path"]
    picture = media.find("image_path", "image", f"mm_data/image/{image}", named=image)
    return picture, media.find("audio_path", "audio", f"mm_data/audio/{audio}", named=audio)


def official_score(query: Query, reply: str) -> float:
    r"""Score a reply as inference/answer_parsing.py does, after MMMU.

    It looks for "(A)" anywhere, else "A ", else "A.", else, in a reply of more than five words, an
    option's text; of several the latest counts. A reply that names none is wrong, as in
    calculate_metrics.py and in lmms-eval.

    Its bugs: the article "A " is an answer ("A dog barks" is A), "A." ends any abbreviation or
    sentence ("grade A."), and a capital before a space counts inside a word ("NASA "); of several
    that only "A." found, the first wins; "**A**" and "A\n" do not count, while "A" at the end of a
    reply does. Two things are not reproduced: the inference script scores a reply that names none
    by a random draw, and calculate_metrics.py reads the key with the same parser, which finds a
    wrong one in an answer that holds "A " and none in a short answer; here the key is the option.
    """
    return float(_chosen(f" {reply} ", query.options) == answer_letter(query))


def _chosen(text: str, options: tuple[str, ...]) -> str:
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        letters = [letter for letter in "ABCD" if form.format(letter) in text]
        if letters:
            places = {letter: text.rfind(place.format(letter)) for letter in letters}
            return last_occurring(letters, places.__getitem__)
    if len(text.split()) <= 5:
        return ""
    small = text.lower()
    places = {}
    for letter, option in zip("ABCD", options, strict=False):
        if option.lower() in small:
            places[letter] = small.rfind(option.lower())
    return last_occurring(list(places), places.__getitem__) if places else ""
