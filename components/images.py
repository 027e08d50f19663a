"""The images that components run in, read once when a pipeline is compiled.

OMNI_IMAGES is the path of what `skaffold build --file-output` and `make images` write: the images
of one build, each by a tag that is a digest of its contents, or by registry digest. The same file
tells kustomize (`skaffold deploy --build-artifacts`). Without it, images by the tag `dev`.
"""

import json
import os
from pathlib import Path

from omnicore.errors import ConfigError

BUILD = "OMNI_IMAGES"


def image(name: str) -> str:
    """Reference of an image of the build.

    Raises ConfigError where the build's file is missing, damaged or lacks it.
    """
    if not (file := os.environ.get(BUILD)):
        return f"localhost/{name}:dev"
    try:
        found = {
            build["imageName"].rpartition("/")[2]: str(build["tag"])
            for build in json.loads(Path(file).read_bytes())["builds"]
        }
        return found[name]
    except (OSError, ValueError, TypeError, KeyError) as error:
        hint = "write it with `make images` or `skaffold build --file-output`"
        raise ConfigError(f"{BUILD}={file} tells no image {name} ({error!r}): {hint}") from error


CORE, TRAIN = image("omni-core"), image("omni-train")
