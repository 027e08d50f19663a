"""Score two models on the raw and the clean view of one benchmark and compare them."""

import json
import subprocess
import sys
from pathlib import Path

AUDIT = Path(__file__).parents[1] / "audit_own_benchmark"
sys.path.insert(0, str(AUDIT))  # the benchmark and the models of the audit example

from questions import write_benchmark  # noqa: E402
from server import serving  # noqa: E402

RUN = Path("runs/examples/compare_models")
COLUMNS = "question=q,options=choices,answer=gold,type=kind,image=picture,audio=tone,cluster=id"


def omnicore(*arguments: str) -> None:
    """Run one `omnicore` command; end this program if it fails."""
    subprocess.run([sys.executable, "-m", "omnicore", *arguments], check=True)


table = write_benchmark(RUN / "data")
with serving() as url:
    command = ["audit", str(table), "--columns", COLUMNS, "--recipe", str(AUDIT / "recipe.yaml")]
    models = ["--evaluate", f"sees@{url}", "--evaluate", f"sees-and-hears@{url}"]
    omnicore(*command, "--probe", f"sees@{url}", *models, "--run", str(RUN))

rows = RUN / "compare.json"
outputs = sorted(path.parent for path in RUN.glob("evaluate-*/step.json"))
omnicore("compare", *map(str, outputs), "--json", str(rows))
print()

for row in json.loads(rows.read_text())["rows"]:
    if row["benchmark"] is None and row["type"] is None and row["rule"] == "strict":
        change = row["difference"]
        print(
            f"{row['view']:<5} {100 * row['a']:5.1f} % -> {100 * row['b']:5.1f} %,"
            f" {100 * change['value']:+.1f} points"
            f" [{100 * change['low']:+.1f}, {100 * change['high']:+.1f}], {row['n']} queries"
        )
