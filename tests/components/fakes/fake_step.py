"""Stands for any step: quick, with progress, and with the files that the runner itself looks at.

`profile.system="probe sleep"` makes probe sleep for a minute; `mistake` raises what a user can
fix, `bug` what they cannot. Every run of a step adds a line with its process and parent to
`$FAKE_LOG`.
"""

import os
import time
from pathlib import Path

from omnicore.errors import TrainingError
from omnicore.progress import track
from omnicore.storage.files import write_json

STEP = __name__.rpartition(".")[2]
ESTIMATE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
AUDIT = dict.fromkeys(("precision", "recall", "kept", "removed", "clean_lost"), 0.5)


def run(recipe, config, inputs, output):
    with Path(os.environ["FAKE_LOG"]).open("a") as log:
        log.write(f"{STEP} {os.getpid()} {os.getppid()}\n")
    print(f"{STEP} speaks")
    match recipe.profile.system.removeprefix(f"{STEP} "):
        case "sleep":
            time.sleep(60)
        case "mistake":
            raise TrainingError(f"{STEP}: line 3 is wrong; fix it")
        case "bug":
            raise ZeroDivisionError("a bug of the step")
    with track(10, STEP) as progress:
        progress.advance(10, loss=0.25)
    if STEP == "clean":
        write_json(output / "manifest.json", {})
        write_json(output / "audit.json", {"leakage": {}, "replies": {}})
    elif STEP == "report":
        (output / "report.html").write_text("<p>page</p>")
        stages = {
            stage: {view: {"macro": ESTIMATE} for view in ("raw", "clean")}
            for stage in ("base", "sft", "rlvr", "distilled")
        }
        write_json(
            output / "report.json",
            {"stages": stages, "audit": {"repeated": AUDIT}, "control": "control" in inputs},
        )
    else:
        write_json(
            output / f"{STEP}.out",
            {
                "inputs": sorted(inputs),
                "seed": recipe.seed,
                "config": config.model_dump(mode="json"),
            },
        )
    return {"figure": 0.25, "count": 3}
