"""Audit a benchmark of your own: which questions can be answered without the sound?"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from questions import write_benchmark
from server import serving

RECIPE = Path(__file__).with_name("recipe.yaml")
RUN = Path("runs/examples/audit_own_benchmark")


def omnicore(step: str, *arguments: str) -> None:
    """Run one `omnicore` command with the recipe; end this program if it fails."""
    command = [sys.executable, "-m", "omnicore", step, "--recipe", str(RECIPE), *arguments]
    subprocess.run(command, check=True)


def output(name: str) -> str:
    """Return the directory of one step's output."""
    return str(RUN / name)


write_benchmark(RUN / "data")
source = ["--benchmark", "omnibench", "--root", str(RUN / "data")]
omnicore("prepare", *source, "--output", output("prepare"))
queries = ["--input", f"queries={output('prepare')}"]
with serving() as url:
    address = ["--set", f"probe.engine.url={url}"]
    omnicore("probe", *address, *queries, "--output", output("probe"))
draws = ["--input", f"draws={output('probe')}"]
omnicore("clean", *queries, *draws, "--output", output("clean"))
audit = ["--input", f"audit={output('clean')}"]
omnicore("report", *queries, *draws, *audit, "--output", output("report"))

types = {}
for line in (RUN / "prepare" / "queries.jsonl").read_text().splitlines():
    query = json.loads(line)
    types[query["id"]] = query["type"]
manifest = json.loads((RUN / "clean" / "manifest.json").read_text())
counts = Counter((types[verdict["id"]], verdict["label"]) for verdict in manifest["verdicts"])
for (kind, label), count in sorted(counts.items()):
    print(f"{kind:<7} {label:<13} {count}")
print(f"open {RUN / 'report' / 'report.html'}")
