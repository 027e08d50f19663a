#!/usr/bin/env bash
# soundfile 0.14.0 (libsndfile 1.2.2) reads the first link of a chained Ogg and says that this is all.
#
# Package: soundfile 0.14.0; av 18.1.0 (FFmpeg) reads all links of the same file.
# Source:  RFC 3533, section 4: a physical Ogg stream may be a concatenation of logical ones ("chaining"); internet radio
#          and `cat a.ogg b.ogg` write it. libsndfile's src/ogg.c reads the streams of one link.
# Matters: librosa.load and transformers' load_audio decode by soundfile: half of the sound goes to the model, no error.
# Seen:    soundfile: info 2.00 s, read 2.00 s
#          PyAV: decoded 4.03 s (the Vorbis encoder pads the end of a link)
# Exits non-zero if this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'soundfile==0.14.0' 'av==18.1.0' 'numpy>=2,<3'
"$work/venv/bin/python" - "$work" <<'PYTHON'
import sys
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 48_000
path = Path(sys.argv[1]) / "chained.ogg"
soundfile.write(path, np.sin(np.arange(2 * RATE) / 20) / 2, RATE)
path.write_bytes(path.read_bytes() * 2)
told, read = soundfile.info(path).duration, len(soundfile.read(path)[0]) / RATE
with av.open(str(path)) as container:
    decoded = sum(frame.samples for frame in container.decode(audio=0)) / RATE
print(f"soundfile: info {told:.2f} s, read {read:.2f} s")
print(f"PyAV: decoded {decoded:.2f} s")
assert abs(told - 2) < 0.1 and abs(read - 2) < 0.1 and abs(decoded - 4) < 0.1, (told, read, decoded)
PYTHON
