"""Evaluate a model before and after a short training and compare both query by query."""

import json
import subprocess
import sys
from pathlib import Path

RUN = Path("runs/examples/compare_models")
SMALL = ["--set", "prepare.scale=0.05", "--set", "prepare.split=dev"]


def omnicore(*arguments: str) -> None:
    """Run one `omnicore` command; end this program if it fails."""
    subprocess.run([sys.executable, "-m", "omnicore", *arguments], check=True)


def output(name: str) -> str:
    """Return the directory of one step's output."""
    return str(RUN / name)


queries = f"queries={output('prepare')}"
omnicore("prepare", *SMALL, "--output", output("prepare"))
few = ["--set", "probe.draws={visual_only: 4}"]
omnicore("probe", *SMALL, *few, "--input", queries, "--output", output("probe"))
draws = f"draws={output('probe')}"
omnicore("clean", *SMALL, "--input", queries, "--input", draws, "--output", output("clean"))

data = f"data={output('prepare')}"
omnicore("sft", *SMALL, "--set", "sft.steps=40", "--input", data, "--output", output("sft"))

inputs = [*SMALL, "--input", queries, "--input", f"manifest={output('clean')}"]
omnicore("evaluate", *inputs, "--output", output("before"))
model = ["--input", f"model={output('sft')}"]
omnicore("evaluate", *inputs, *model, "--output", output("after"))

table = RUN / "compare.json"
omnicore("compare", output("before"), output("after"), "--json", str(table))

for row in json.loads(table.read_text())["rows"]:
    if row["benchmark"] is None and row["type"] is None and row["rule"] == "strict":
        change = row["difference"]
        print(
            f"{row['view']} view: {100 * change['value']:+.1f} points"
            f" [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}] on {row['n']} queries"
        )
