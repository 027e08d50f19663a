#!/usr/bin/env bash
# Pillow 13.0.0 shows a 16-bit grey TIFF whose white is 0 as its negative; of 8 bits it is right.
#
# Package: pillow 13.0.0.
# Source:  PIL/TiffImagePlugin.py, OPEN_INFO: photometric interpretation 0 (WhiteIsZero) of 8 bits has the raw mode
#          "L;I" (inverted), that of 16 bits "I;16", the same as interpretation 1 (BlackIsZero).
# Matters: X-rays and scans are written so. Whoever opens them for a vision model shows it the negative, without an
#          error; only the tag 262 of the opened file tells.
# Seen:    8 bits, white is 0: first pixel (0 in the file) shows 255
#          16 bits, white is 0: first pixel (0 in the file) shows 0
# Exits non-zero if this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pillow==13.0.0'
"$work/venv/bin/python" - <<'PYTHON'
import io
import struct

from PIL import Image


def tiff(bits: int) -> io.BytesIO:
    """A ramp of 4x1 pixels from 0 to the largest number, uncompressed, WhiteIsZero (TIFF 6.0, section 4)."""
    most = 2**bits - 1
    pixels = struct.pack("<4B" if bits == 8 else "<4H", *(most * i // 3 for i in range(4)))
    fields = {256: 4, 257: 1, 258: bits, 259: 1, 262: 0, 273: 8, 277: 1, 278: 1, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in fields.items())
    directory = struct.pack("<H", len(fields)) + entries + bytes(4)
    return io.BytesIO(b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory)


seen = {}
for bits in (8, 16):
    with Image.open(tiff(bits)) as image:
        seen[bits] = image.getpixel((0, 0))
    print(f"{bits} bits, white is 0: first pixel (0 in the file) shows {seen[bits]}")
assert seen == {8: 255, 16: 0}, seen
PYTHON
