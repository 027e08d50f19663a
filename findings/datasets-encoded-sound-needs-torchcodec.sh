#!/usr/bin/env bash
# datasets 5.2.0 stores an encoded sound given as bytes only where torchcodec is installed, though nothing is decoded.
#
# Package: datasets 5.2.0, pyarrow 25.0.1, without torch and torchcodec.
# Source:  docstring of datasets.Audio: a cell may be a path, a dictionary with path and bytes, or an array. The feature
#          Image of the same release stores such a dictionary without a decoder.
# Matters: a benchmark of sounds and pictures cannot be written with features Image and Audio on a machine without torch.
#          The Arrow type of Audio is the plain struct {bytes, path}: written as that struct, the table is the same.
# Seen:    Image: stored
#          Audio: ImportError: To support encoding audio data, please install 'torchcodec'.
#          struct: stored, as the Arrow type of Audio: True
# Exits non-zero if this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'datasets==5.2.0' 'pyarrow==25.0.1' 'pillow>=11,<13' 'soundfile==0.14.0' 'numpy>=2,<3'
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PYTHON'
import io

import numpy as np
import soundfile
from datasets import Audio, Dataset, Features, Image, Value
from PIL import Image as Pillow

sound, picture = io.BytesIO(), io.BytesIO()
soundfile.write(sound, np.sin(np.arange(16_000) / 20) / 2, 16_000, format="WAV")
Pillow.new("RGB", (8, 8), "red").save(picture, "png")
struct = {"bytes": Value("binary"), "path": Value("string")}


def store(feature, data):
    rows = {"medium": [{"bytes": data, "path": None}]}
    return Dataset.from_dict(rows, Features({"medium": feature}))


store(Image(), picture.getvalue())
print("Image: stored")
try:
    store(Audio(), sound.getvalue())
    raised = None
except ImportError as error:
    raised = error
print(f"Audio: {type(raised).__name__}: {raised}")
kept = store(struct, sound.getvalue()).features.arrow_schema.field("medium").type
same = {field.name: field.type for field in kept} == {field.name: field.type for field in Audio().pa_type}
print(f"struct: stored, as the Arrow type of Audio: {same}")
assert raised is not None and "torchcodec" in str(raised) and same
PYTHON
