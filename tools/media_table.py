"""Write the table of docs/media.md that compares our frames and samples with ffmpeg's.

python -m tools.media_table
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from tests.unit import test_media_reference as reference

PAGE = Path("docs/media.md")
BEGIN, END = "<!-- measured: tools/media_table.py -->\n", "<!-- end -->\n"


def main() -> None:
    """Measure all cases of the reference tests, and write the table."""
    rows = [
        "| file | encoded by ffmpeg with | clips | frames, levels of 255 | sound, dB |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for case in reference.CASES:
            path = reference.made(Path(folder), case)
            clips = reference.clips(case)
            frames = sound = ""
            if "-vn" not in case.options:
                frames = f"{max(reference.frames_error(path, *clip) for clip in clips):.1f}"
            if case.sound:
                share = max(reference.sound_error(path, *clip) for clip in clips)
                sound = f"{10 * math.log10(max(share, 1e-12)):.0f}"
            rows.append(
                f"| {case.name} | `{case.options.replace('|', ' ')}` | {len(clips)} | {frames} |"
                f" {sound} |"
            )
    head, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(head + BEGIN + "\n".join(rows) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
