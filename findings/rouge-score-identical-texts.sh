#!/usr/bin/env bash
# rouge-score 0.1.2 gives less than 1 to a text compared with itself.
#
# Package: rouge-score 0.1.2 (google-research), its default tokenizer, use_stemmer=True.
# Source:  rouge_score/tokenize.py replaces everything outside a-z0-9 by a space before it splits;
#          rouge_scorer.py counts bigrams, of which a text of one word has none, and gives F = 0 for none.
# Matters: Video-R1 (tulerfeng/Video-R1, src/r1-v/src/open_r1/grpo.py) pays a free-form answer the mean of
#          the F1 of rouge1, rouge2 and rougeL: a right answer of one word is paid 0.667, and a right answer
#          in Chinese 0. Rewards and scores made so do not reach 1 on right answers.
# Seen:    wetsuit 0.667
#          红色的猫 0.000
#          the red door opens 1.000
# Exits non-zero if this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'rouge-score==0.1.2'
"$work/venv/bin/python" - <<'PYTHON'
from rouge_score import rouge_scorer

KINDS = ["rouge1", "rouge2", "rougeL"]
scorer = rouge_scorer.RougeScorer(KINDS, use_stemmer=True)
seen = {}
for text in ("wetsuit", "红色的猫", "the red door opens"):
    scores = scorer.score(text, text)
    seen[text] = f"{sum(scores[kind].fmeasure for kind in KINDS) / 3:.3f}"
    print(text, seen[text])
assert list(seen.values()) == ["0.667", "0.000", "1.000"], seen
PYTHON
