"""Filter a benchmark's own rows with a manifest of verdicts."""

import json
from pathlib import Path

from omnicore.schema import Manifest

HERE = Path(__file__).parent
OUTPUT = Path("runs/examples/filter_benchmark/clean.jsonl")

manifest = Manifest.model_validate_json((HERE / "manifest.json").read_text())
rows = [json.loads(line) for line in (HERE / "questions.jsonl").read_text().splitlines()]
kept = manifest.kept()  # (benchmark, id) of every query of the clean view
clean = [row for row in rows if (row["benchmark"], row["id"]) in kept]

print(f"policy {manifest.policy}, probe {manifest.probe}, hash {manifest.content_hash[:12]}")
for verdict in manifest.verdicts:
    print(f"{verdict.id}  {verdict.label:<12}  right in {verdict.hits} of {verdict.draws} draws")
print(f"{len(clean)} of {len(rows)} rows are in the clean view")

OUTPUT.parent.mkdir(parents=True, exist_ok=True)
OUTPUT.write_text("".join(json.dumps(row) + "\n" for row in clean))
