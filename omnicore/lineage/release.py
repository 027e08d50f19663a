"""Release a checkpoint: only its files, with its scores in the card, signed if there is a key."""

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
    """Return the card of a checkpoint with its scores; write a release where there is an output.

    Each place may be a directory or an s3:// address.

    Args:
        checkpoint: Output of a step, the checkpoint in it, or a released one.
        scores: An output of evaluate, or a directory below which one of this checkpoint lies.
        output: New place for the checkpoint's files with the card.

    Raises:
        CheckpointError: The checkpoint was changed, or as `signing.verify_signature` raises it.
        DataError: It has no card, or the scores are of another checkpoint.
        ConfigError: The output is not empty.
        StorageError: As `store` raises it.
    """
    with ExitStack() as stack:
        directory = _checkpoint_directory(stack.enter_context(_local_directory(checkpoint)))
        step = _producing_step(directory)
        card = model_card.read_card(directory).model_copy(update={"made": step})
        if scores:
            evaluation = stack.enter_context(_local_directory(scores))
            card = card.model_copy(update={"scores": _find_scores(step, evaluation)})
        if store.is_s3(output):
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "release"
            _write_release(directory, card, scratch)
            publication = store.publish(scratch, output)
            print(f"{output.rstrip('/')}  digest {publication.digest}")
        elif output:
            _write_release(directory, card, Path(output))
    return card


@contextmanager
def _local_directory(place: str) -> Iterator[Path]:
    """Yield a directory, or one with what is published at an address while the block runs."""
    if not store.is_s3(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory() as scratch:
        store.fetch(place.rstrip("/"), Path(scratch) / "fetched")
        yield Path(scratch) / "fetched"


def _checkpoint_directory(place: Path) -> Path:
    inside = place / model_card.CHECKPOINT
    return inside if inside.is_dir() else place


def _producing_step(directory: Path) -> ProducingStep:
    """Return the step that wrote the checkpoint.

    A changed checkpoint is refused: it must not get a new signature.
    """
    signing.verify_signature(directory)
    output = directory.resolve().parent
    if directory.resolve().name == model_card.CHECKPOINT and (output / STEP_FILE).is_file():
        record = verify_step(output)
        return ProducingStep.model_validate(
            {name: record[name] for name in ProducingStep.model_fields}
        )
    step = model_card.read_card(directory).made
    if step is None:
        raise DataError(
            f"{directory} lies apart from the {STEP_FILE} of the step that wrote it: name that"
            " step's output",
            code="release-step-unknown",
            path=directory,
        )
    return step


def _find_scores(step: ProducingStep, place: Path) -> CheckpointScores:
    """Return the scores of the one evaluation of a checkpoint below a directory."""
    records = {path.parent: read_step(path.parent) for path in sorted(place.rglob(STEP_FILE))}
    evaluations = {d: record for d, record in records.items() if record["step"] == "evaluate"}
    own = {
        directory: record
        for directory, record in evaluations.items()
        if record.get("inputs", {}).get("model") == step.digest
    }
    if not own:
        raise DataError(
            f"{place}: none of {len(evaluations)} outputs of evaluate there is of this checkpoint,"
            f" {step.section} {step.digest}; evaluate it with --input model=",
            code="release-scores-missing",
            path=place,
        )
    if len({record["digest"] for record in own.values()}) > 1:
        raise DataError(
            f"{place}: several evaluations are of this checkpoint; name one:"
            f" {', '.join(map(str, own))}",
            code="release-scores-ambiguous",
            path=place,
        )
    directory, record = next(iter(own.items()))
    verify_step(directory)
    return _scores(read_json(directory / "scores.json"), record["digest"])


def _scores(scores: dict[str, dict[str, dict[str, object]]], digest: str) -> CheckpointScores:
    by_benchmark = {
        name: {view: views[view] for view in model_card.VIEWS}
        for name, views in scores["by_benchmark"].items()
    }
    copied = ("profile_hash", "manifest_hash", "queries_hash", "ablation", *model_card.VIEWS)
    fields: dict[str, object] = {name: scores[name] for name in copied}
    fields |= {"evaluation": digest, "by_benchmark": by_benchmark}
    return CheckpointScores.model_validate(fields)


def _write_release(directory: Path, card: CheckpointCard, output: Path) -> None:
    """Write the checkpoint's files and the card, linked where the disk can; whole or absent."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(
            f"output {output} is not empty; choose a new directory",
            code="output-not-empty",
            path=output,
        )
    scratch = output.with_name(output.name + ".part")
    with storage_errors(output):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            name = path.relative_to(directory).as_posix()
            if name not in REPLACED:
                link_or_copy(path, scratch / name)
        model_card.write_card(scratch, card)
        signing.sign_checkpoint(scratch)
        scratch.rename(output)
