#!/usr/bin/env bash
# av 18.1.0 (FFmpeg 8): start_time + duration of a Matroska file that begins after 0 is behind its end, by start_time.
#
# Package: av 18.1.0, which writes the file and reads it.
# Source:  FFmpeg's libavformat/matroskaenc.c keeps the largest end of a packet as the segment's Duration; its demuxer hands
#          that on as the length. mkvmerge 74 writes the length from the first packet on. The element is "Duration of the
#          Segment, expressed in Segment Ticks": both are readings of it, and nothing in a file says which was meant.
# Matters: readers that take the sum ask for frames behind the end: `ffmpeg -ss 2 -copyts -c copy` is enough.
# Seen:    start 7.0 s, duration 13.0 s, last packet ends at 13.0 s
# Exits non-zero if this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'av==18.1.0' 'numpy>=2,<3'
"$folder/venv/bin/python" - "$folder/late.mkv" <<'PY'
import sys
from fractions import Fraction

import av
import numpy as np

with av.open(sys.argv[1], "w") as out:
    stream = out.add_stream("mjpeg", rate=25, width=32, height=32, pix_fmt="yuvj420p")
    for number in range(150):
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number, np.uint8), format="rgb24")
        frame.pts, frame.time_base = 7 * 25 + number, Fraction(1, 25)
        out.mux(stream.encode(frame))
    out.mux(stream.encode())
with av.open(sys.argv[1]) as file:
    start, duration = file.start_time / 1e6, file.duration / 1e6
    last = max(float((p.pts + p.duration) * p.time_base) for p in file.demux(video=0) if p.pts is not None)
print(f"start {start} s, duration {duration} s, last packet ends at {last} s")
sys.exit(not (start == 7.0 and abs(duration - 13) < 0.1 and abs(last - 13) < 0.1))
PY
