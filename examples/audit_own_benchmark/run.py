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
COLUMNS = "question=q,options=choices,answer=gold,type=kind,image=picture,audio=tone,cluster=id"

table = write_benchmark(RUN / "data")
with serving() as url:
    command = [sys.executable, "-m", "omnicore", "audit", str(table), "--columns", COLUMNS]
    command += ["--probe", f"sees@{url}", "--recipe", str(RECIPE), "--run", str(RUN)]
    subprocess.run(command, check=True)

types = {}
for line in (RUN / "prepare" / "queries.jsonl").read_text().splitlines():
    query = json.loads(line)
    types[query["id"]] = query["type"]
manifest = json.loads((RUN / "clean" / "manifest.json").read_text())
counts = Counter((types[verdict["id"]], verdict["label"]) for verdict in manifest["verdicts"])
print()
for (kind, label), count in sorted(counts.items()):
    print(f"{kind:<7} {label:<13} {count}")
