"""A small but whole set of inputs for `report` and `promote`: real pictures and sounds, real
cleaning and scoring, replies by a made-up model whose skill at each stage is a table.

Nothing here was measured.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import soundfile

from omnicore.config import digest
from omnicore.config.recipe import load_recipe
from omnicore.data.benchmarks import synthetic
from omnicore.data.prompts import draw_permutation
from omnicore.evaluation.score_records import Scores
from omnicore.evaluation.scores import compute_figures
from omnicore.lineage.step_record import write_step
from omnicore.media.sounds import SAMPLE_RATE
from omnicore.schema import Draw, Manifest, Media, Query, RejectionReason, Response, View
from omnicore.scoring.verify import judge
from omnicore.steps import clean
from omnicore.storage.files import read_jsonl, write_json, write_jsonl

RECIPE = load_recipe("tiny")
PROFILE = hashlib.sha256(b"profile").hexdigest()
TYPES = ("picture", "speech", "picture_text", "speech_text", "agreement", "transcript", "sum")
# Chance of a right reply by stage, in the order of TYPES; None is by wording: the base knows one and guesses at three.
SKILL: dict[str, tuple[float | None, ...]] = {
    "base": (0.95, 0.99, 0.35, 0.40, 0.50, 0.55, None),
    "sft": (0.95, 0.99, 0.94, 0.98, 0.52, 0.90, None),
    "rlvr": (0.95, 0.99, 0.93, 0.98, 0.60, 0.80, 0.92),
    "distilled": (0.96, 0.99, 0.94, 0.98, 0.62, 0.85, 0.93),
    "control": (0.90, 0.90, 0.80, 0.80, 0.50, 0.70, 0.52),
}
# What distill counts: every reason of training/selection.py, 0 where it took none.
SELECTED = {
    "rollouts": 400,
    "kept": 250,
    **{f"rejected_{reason}": 0 for reason in RejectionReason},
    **{
        "rejected_no_answer": 10,
        "rejected_incorrect": 60,
        "rejected_solvable": 30,
        "rejected_per_query": 50,
    },
}
SEEN = {"canary_audio": "answers", "canary_image": "answers", "canary_noise": 0.0}
BY_WORDING = dict(zip(synthetic.WORDINGS["sum"], (0.9, 0.32, 0.28, 0.36), strict=True))


def make(
    root: Path,
    *,
    scale: float = 0.15,
    control: bool = True,
    second: bool = True,
    planted: bool = True,
) -> dict[str, Path]:
    """Writes every input of `report` under `root` and returns the directories by role."""
    rng = random.Random(0)

    def step(
        name: str, fill: Callable[[Path], object], seconds: float, summary: Mapping[str, Any] = {}
    ) -> Path:
        folder = root / name
        folder.mkdir(parents=True)
        fill(folder)
        verb = name.split("-")[0]
        write_step(
            folder,
            {
                "step": verb,
                "section": verb,
                "key": digest(name),
                "seconds": seconds,
                "summary": summary,
                "seed": 0,
            },
        )
        return folder

    roles = {"queries": step("prepare", partial(_prepare, scale=scale, planted=planted), 2.1)}
    queries = read_jsonl(roles["queries"] / "queries.jsonl", Query)
    controls = read_jsonl(roles["queries"] / "controls.jsonl", Query)
    roles["draws"] = step("probe", partial(_probe, queries=queries, rng=rng), 14.8)
    audited = (
        {**roles, "second_draws": step("probe-2", partial(_probe, queries=queries, rng=rng), 5.2)}
        if second
        else roles
    )
    roles["audit"] = step(
        "clean", lambda folder: clean.run(RECIPE, RECIPE.clean, audited, folder), 0.4
    )
    manifest = Manifest.model_validate_json((roles["audit"] / "manifest.json").read_text())
    for arm in SKILL:
        if arm != "control" or control:
            answer = partial(
                _evaluate, arm=arm, queries=queries, controls=controls, manifest=manifest, rng=rng
            )
            roles[arm] = step(f"evaluate-{arm}", answer, 6.3, SEEN)
    for name, steps in (("sft", 60), ("rlvr", 50), ("distilled", 40)):
        roles[f"{name}_curves"] = step(
            f"train-{name}", partial(_curves, name=name, steps=steps, rng=rng), steps * 0.6
        )
    roles["distill"] = step("distill", lambda folder: None, 3.0, SELECTED)
    return roles


def _prepare(folder: Path, scale: float, planted: bool) -> None:
    world = synthetic.World("dev")
    (folder / "media").mkdir()

    def medium(kind: Any, index: int) -> Media:
        data = io.BytesIO()
        if kind == "image":
            world.pictures[index].image().save(data, "png")
        else:
            soundfile.write(
                data, world.clips[index].wave, SAMPLE_RATE, format="WAV", subtype="PCM_16"
            )
        sha = hashlib.sha256(data.getvalue()).hexdigest()
        uri = f"media/{sha[:16]}.{'png' if kind == 'image' else 'wav'}"
        (folder / uri).write_bytes(data.getvalue())
        return Media(kind=kind, uri=uri, sha256=sha)

    def query(item: synthetic.Item, benchmark: str, name: str) -> Query:
        return Query(
            benchmark=benchmark,
            id=name,
            type=item.type,
            question=item.question,
            options=item.options,
            answer=item.answer,
            answer_kind=item.answer_kind,
            media=tuple(medium(kind, index) for kind, index in item.media),
            cluster=str(item.media[0]),
            wording=synthetic.WORDINGS[item.kind][item.wording],
        )

    queries, truth, infos = [], {}, []
    for name, items in synthetic.planted_items(world, scale).items():
        rows = [query(item, name, f"{name}-{i:04d}") for i, (item, _) in enumerate(items)]
        truth[name] = {row.id: solvable for row, (_, solvable) in zip(rows, items, strict=True)}
        infos.append(synthetic.benchmark_info(name, len(rows)).model_dump(mode="json"))
        queries += rows
    rng = random.Random(1)
    kinds: tuple[synthetic.ItemKind, ...] = ("picture", "speech", "picture_text", "speech_text")
    each = range(max(8, round(100 * scale)))
    controls = [
        query(world.item(rng, kind), "controls", f"{kind}-{i:04d}") for kind in kinds for i in each
    ]
    write_jsonl(folder / "queries.jsonl", queries)
    write_jsonl(folder / "controls.jsonl", controls)
    write_json(folder / "benchmarks.json", infos)
    if planted:
        write_json(folder / "planted.json", truth)


def _reply(value: str | None) -> str:
    return (
        "see 3 hear 5 and then"
        if value is None
        else f"<think>see 3 hear 5</think><answer>{value}</answer>"
    )


def _probe(folder: Path, queries: list[Query], rng: random.Random) -> None:
    """Draws of a probe that sees well; where it cannot know, it repeats a guess of its own,
    sometimes outside the options."""
    counts = {View.visual_only: 8, View.text_only: 2, View.audio_only: 2}
    draws = []
    for q in queries:
        solves = q.type in ("picture", "transcript") and rng.random() < 0.95
        guess = q.answer if solves else rng.choice([*q.options, "77"])
        for view, i in ((view, i) for view, count in counts.items() for i in range(count)):
            keeps = view is View.visual_only and rng.random() < (0.97 if solves else 0.3)
            said = _reply(guess if keeps else rng.choice([*q.options, "77"]))
            order = draw_permutation(q, view, i, 0)
            answer, outcome = judge(said, q, "value", order)
            found = {
                "benchmark": q.benchmark,
                "id": q.id,
                "view": view,
                "draw": i,
                "answer": answer,
                "outcome": outcome,
            }
            draws.append(Draw(permutation=order, reply=said, **found))
    write_jsonl(folder / "draws.jsonl", draws)
    write_json(
        folder / "probe.json",
        {"model": folder.name, "profile_hash": PROFILE, "draws": counts, "accuracy": {}},
    )


def _evaluate(
    folder: Path,
    arm: str,
    queries: list[Query],
    controls: list[Query],
    manifest: Manifest,
    rng: random.Random,
) -> None:
    kept = manifest.kept()
    skill = dict(zip(TYPES, SKILL[arm], strict=True))
    responses = []
    for q in (*queries, *controls):
        for view in (
            (View.omni, View.visual_only, View.audio_only) if q.key in kept else (View.omni,)
        ):
            able = skill[q.type] or BY_WORDING[q.wording]
            right = rng.random() < (able if view is View.omni else 0.2)
            said = _reply(
                q.answer if right else rng.choice([None, *(o for o in q.options if o != q.answer)])
            )
            answer, outcome = judge(said, q, "value")
            responses.append(
                Response(
                    benchmark=q.benchmark,
                    id=q.id,
                    view=view,
                    reply=said,
                    answer=answer,
                    outcome=outcome,
                )
            )
    write_jsonl(folder / "responses.jsonl", responses)
    figures = compute_figures(queries, controls, kept, responses)
    hashes = {
        "profile_hash": PROFILE,
        "manifest_hash": manifest.content_hash,
        "queries_hash": "c" * 64,
    }
    scores = Scores(model=arm, profile={}, errors=0, **hashes, **dict(figures))
    write_json(folder / "scores.json", scores)


def _curves(folder: Path, name: str, steps: int, rng: random.Random) -> None:
    start = {"picture": 0.9, "speech": 0.95, "picture_text": 0.85, "speech_text": 0.9, "sum": 0.42}
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        done = step / steps
        row: dict[str, Any] = {
            "step": step,
            "loss": 0.9 * (1 - done) ** 3 + rng.uniform(0.05, 0.1),
            "learning_rate": 1e-4,
        }
        if name == "rlvr":
            skill = {
                t: min(1.0, s + (0.93 - s) * done + rng.uniform(-0.06, 0.06))
                for t, s in start.items()
            }
            mean = sum(skill.values()) / len(skill)
            row |= {
                "reward": mean,
                "entropy": 0.25 * (1 - done) + 0.05,
                "kl": None,
                "length": 11 + done,
            }
            row |= {
                "all_right": mean**3,
                "all_wrong": (1 - mean) ** 3,
                "no_answer": 0.02 * (1 - done),
                "truncated": 0.0,
            }
            seen: Mapping[str, float] = {
                t: s for t, s in skill.items() if t != "speech" or step % 3
            }  # no such prompt in some steps
            row["by_type"] = {
                t: {"reward": s, "all_right": s**3, "all_wrong": (1 - s) ** 3}
                for t, s in seen.items()
            }
        rows.append(row)
    write_jsonl(folder / "curves.jsonl", rows)
    if name == "rlvr":
        write_jsonl(
            folder / "rollouts.jsonl",
            [_rollout(step, t, rng) for step in range(steps) for t in start for _ in range(4)],
        )


def _rollout(step: int, kind: str, rng: random.Random) -> dict[str, Any]:
    outcome = rng.choice(
        ["correct", "incorrect", "no_answer"] if step < 30 else ["correct", "incorrect"]
    )
    known = {
        "step": step,
        "id": f"{kind}-{step}",
        "type": kind,
        "outcome": outcome,
        "used": rng.random() < 0.8,
    }
    return {
        **known,
        "reply": f"{kind} at {step}",
        "reward": float(outcome == "correct"),
        "advantage": rng.uniform(-1, 1),
    }
