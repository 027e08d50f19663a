"""A checkpoint made ready to be handed on: its files alone, with its scores in the card, signed
where there is a key."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from omnicore.errors import ConfigError, DataError
from omnicore.lineage import model_card, signing
from omnicore.lineage.model_card import CheckpointCard, CheckpointScores, ProducingStep
from omnicore.lineage.step_record import read_step, verify_step
from omnicore.storage import store
from omnicore.storage.digests import SIGNATURE, STEP_FILE
from omnicore.storage.files import link_or_copy, read_json, storage_errors

REPLACED = {model_card.CARD_FILE, model_card.README, SIGNATURE}


def release(checkpoint: str, scores: str = "", output: str = "") -> CheckpointCard:
    """The card of a checkpoint with the scores of its evaluation, written with the checkpoint's
    files into a new directory.

    `checkpoint` is the output of a step, the checkpoint in it, or a released one; `scores` an
    output of evaluate, or a directory below which one of this checkpoint lies; each place and
    `output` may be an
    s3://
    address. Without `output` nothing is written.

    Raises CheckpointError for a checkpoint that was changed, DataError for one without a card or scores of another, ConfigError for
    an output that is not empty, and what `signing` and `store` raise.
    """
    with ExitStack() as fetched:
        directory = _directory(fetched.enter_context(_local(checkpoint)))
        made = _made(directory)
        found = model_card.read_card(directory).model_copy(update={"made": made})
        if scores:
            found = found.model_copy(
                update={"scores": _scores(made, fetched.enter_context(_local(scores)))}
            )
        if store.is_s3(output):
            scratch = Path(fetched.enter_context(tempfile.TemporaryDirectory())) / "release"
            _write(directory, found, scratch)
            published = store.publish(scratch, output)
            print(f"{output.rstrip('/')}  digest {published.digest}")
        elif output:
            _write(directory, found, Path(output))
    return found


@contextmanager
def _local(place: str) -> Iterator[Path]:
    if not store.is_s3(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory() as scratch:
        store.fetch(place.rstrip("/"), Path(scratch) / "fetched")
        yield Path(scratch) / "fetched"


def _directory(place: Path) -> Path:
    inside = place / model_card.CHECKPOINT
    return inside if inside.is_dir() else place


def _made(directory: Path) -> ProducingStep:
    """The step that wrote the checkpoint.

    What is not as it was written must not get a new signature.
    """
    signing.verify_signature(directory)
    step = directory.resolve().parent
    if directory.resolve().name == model_card.CHECKPOINT and (step / STEP_FILE).is_file():
        record = verify_step(step)
        return ProducingStep.model_validate(
            {name: record[name] for name in ProducingStep.model_fields}
        )
    if made := model_card.read_card(directory).made:
        return made
    raise DataError(
        f"{directory} lies apart from the {STEP_FILE} of the step that wrote it: name that step's"
        " output"
    )


def _scores(made: ProducingStep, place: Path) -> CheckpointScores:
    records = {path.parent: read_step(path.parent) for path in sorted(place.rglob(STEP_FILE))}
    asked = {at: record for at, record in records.items() if record["step"] == "evaluate"}
    own = {
        at: record
        for at, record in asked.items()
        if record.get("inputs", {}).get("model") == made.digest
    }
    if not own:
        raise DataError(
            f"{place}: none of {len(asked)} outputs of evaluate there is of this checkpoint,"
            f" {made.section} {made.digest}; evaluate it with --input model="
        )
    if len({record["digest"] for record in own.values()}) > 1:
        raise DataError(
            f"{place}: several evaluations are of this checkpoint; name one:"
            f" {', '.join(map(str, own))}"
        )
    directory, record = next(iter(own.items()))
    verify_step(directory)
    scores = read_json(directory / "scores.json")
    by_benchmark = {
        name: {view: of[view] for view in model_card.VIEWS}
        for name, of in scores["by_benchmark"].items()
    }
    plain = {
        name: scores[name]
        for name in ("profile_hash", "manifest_hash", "queries_hash", "ablation", *model_card.VIEWS)
    }
    return CheckpointScores.model_validate(
        {**plain, "evaluation": record["digest"], "by_benchmark": by_benchmark}
    )


def _write(directory: Path, found: CheckpointCard, output: Path) -> None:
    """The checkpoint's files, linked where the disk can; whole or absent."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"output {output} is not empty; give a new directory")
    scratch = output.with_name(output.name + ".part")
    with storage_errors(output):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            if (name := path.relative_to(directory).as_posix()) not in REPLACED:
                link_or_copy(path, scratch / name)
        model_card.write_card(scratch, found)
        signing.sign_checkpoint(scratch)
        scratch.rename(output)
