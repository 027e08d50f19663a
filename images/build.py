"""Builds images with podman or Docker, without a registry: `python images/build.py core train
--base core=IMAGE`.

An image is tagged with a digest of what it is made of, and one that is there is not built again.
build/images.json tells what was built, in the form of `skaffold build --file-output`:
`OMNI_IMAGES=build/images.json python -m pipelines.compile`.

What pip is told on this machine (a mirror, a certificate, wheels on disk) is told to the build as a
secret and as mounts; neither is in a layer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("LICENSE", "README.md", "pyproject.toml", "components", "omnicore", "pipelines/compiled")
MADE_OF = {
    "core": (*SOURCES, "images/build.lock", "images/core.lock"),
    "train": ("images/build.lock", "images/train.lock"),
    "serve": ("images/build.lock", "images/core.lock"),
}
ENGINE = "podman" if shutil.which("podman") else "docker"


def main() -> None:
    parser = argparse.ArgumentParser(prog="images/build.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="+", choices=sorted(MADE_OF), metavar="NAME", help="core, train, serve"
    )
    parser.add_argument(
        "--base",
        action="append",
        default=[],
        metavar="NAME=IMAGE",
        help="base in place of the Dockerfile's",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "images.json")
    options = parser.parse_args()
    bases = dict(given.split("=", 1) for given in options.base)
    built: dict[str, str] = {}
    for name in sorted({"core", *options.names}):  # the others take the wheel from core
        arguments = {"BASE": bases[name]} if name in bases else {}
        if name != "core":
            arguments["CORE"] = built["core"]
        built[name] = f"localhost/omni-{name}:{digest(name, arguments)}"
        if subprocess.run(
            [ENGINE, "image", "inspect", built[name]], capture_output=True
        ).returncode:
            build(name, built[name], arguments)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    builds = [{"imageName": f"omni-{name}", "tag": tag} for name, tag in built.items()]
    options.output.write_text(json.dumps({"builds": builds}, indent=1) + "\n")
    print("\n".join(built.values()))


def digest(name: str, arguments: dict[str, str]) -> str:
    """Of the Dockerfile, every file that it copies, and its arguments; 16 hexadecimal digits."""
    places = [ROOT / place for place in (f"images/{name}/Dockerfile", *MADE_OF[name])]
    files = sorted(
        file
        for place in places
        for file in ([place] if place.is_file() else place.rglob("*"))
        if _copied(file)
    )
    found = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode())
    for file in files:
        found.update(
            f"{file.relative_to(ROOT)}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode()
        )
    return found.hexdigest()[:16]


def build(name: str, tag: str, arguments: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        secret = Path(scratch) / "pip.conf"
        settings, local = pip_settings()
        secret.write_text(
            "[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())
        )
        command = [
            ENGINE,
            "build",
            "--network=host",
            f"--file=images/{name}/Dockerfile",
            f"--tag={tag}",
        ]
        command += (
            [] if ENGINE == "docker" else ["--format=docker", "--layers=false"]
        )  # OCI images have no health check; layers of a build cost a minute
        command += [f"--build-arg={key}={value}" for key, value in arguments.items()]
        command += [
            f"--secret=id=pip,src={secret}",
            *(f"--volume={place}:{place}:ro" for place in local),
            ".",
        ]
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def pip_settings() -> tuple[dict[str, str], list[str]]:
    """What pip is told on this machine, the later source over the earlier one; and what of it lies
    on the disk."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    settings: dict[str, str] = {}
    for line in said.splitlines():
        name, _, value = line.partition("=")
        settings |= {name.rpartition(".")[2]: shlex.split(value)[0]}
    words = [word for value in settings.values() for word in value.split()]
    # The pages of an index on the disk link to files beside it.
    local = {
        str(Path(word.removeprefix("file://")).parent) if word.startswith("file://") else word
        for word in words
    }
    return settings, sorted(
        place for place in local if place.startswith("/") and Path(place).exists()
    )


def _copied(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts


if __name__ == "__main__":
    main()
