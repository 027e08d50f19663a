"""Fixtures in the publishers' native forms: annotations are written by hand and lie beside this
file, media are made.

`tests/benchmarks/<name>/` holds the annotation files as the publisher names them, and `media.txt`
with the path of one medium a line; what is made is told by its suffix.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.media_files import make_picture, make_tone, make_video

HERE = Path(__file__).parent


def copy(name: str, root: Path) -> Path:
    """A local copy of the fixture of a benchmark, complete with media.

    Returns its folder.
    """
    folder = root / name
    shutil.copytree(HERE / name, folder, ignore=shutil.ignore_patterns("media.txt"))
    for number, uri in enumerate((HERE / name / "media.txt").read_text().split()):
        path = folder / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".mp4", ".mkv", ".webm"):
            make_video(path, seconds=1.0, fps=8, size=(64, 48), tone_hz=300 + 20 * number)
        elif path.suffix in (".wav", ".flac", ".mp3"):
            make_tone(path, hz=300 + 20 * number, seconds=0.5)
        else:
            make_picture(path, colour=(40 * number % 256, 80, 160), size=(32, 24))
    return folder
