"""Writes `pipelines/compiled/`: each pipeline as IR YAML, and as Kubernetes-native Pipeline and
PipelineVersion.

And what Argo CD applies of the retrain request, `k8s/gitops/retrain/rendered/`.

`python -m pipelines.compile` writes, `--check` only compares: it names the files that are not
current and exits 1.
"""

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

from kfp.compiler import Compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from omnicore.errors import OmniError
from omnicore.storage.files import atomic_writer
from pipelines import request
from pipelines.omniboost import omniboost
from pipelines.omniclean import omniclean
from pipelines.retrain import retrain

PIPELINES = {"omniclean": omniclean, "omniboost": omniboost, "retrain": retrain}
COMPILED = Path(__file__).parent / "compiled"
RENDERED = request.FILE.parent / "rendered"


def compiled(directory: Path) -> list[Path]:
    """Compiles every pipeline into a directory and returns the files.

    A version is named by its content: the same name on a cluster is the same pipeline, and a changed one is a new version.
    """
    files = []
    for name, pipeline in PIPELINES.items():
        definition, manifest = directory / f"{name}.yaml", directory / f"{name}.k8s.yaml"
        Compiler().compile(pipeline, str(definition))
        version = f"{name}-{hashlib.sha256(definition.read_bytes()).hexdigest()[:8]}"
        options = KubernetesManifestOptions(
            pipeline_name=name, pipeline_version_name=version, include_pipeline_manifest=True
        )
        Compiler().compile(
            pipeline,
            str(manifest),
            kubernetes_manifest_format=True,
            kubernetes_manifest_options=options,
        )
        files += [definition, manifest]
    return files


def main() -> int:
    parser = argparse.ArgumentParser(prog="pipelines.compile", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit 1 naming the files that are not current",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=COMPILED,
        metavar="DIR",
        help="as in build/pipelines, for one build's images",
    )
    options = parser.parse_args()
    check, output = options.check, options.output
    output.mkdir(parents=True, exist_ok=True)
    stale = 0
    with tempfile.TemporaryDirectory(dir=None if check else output) as directory:
        made = {output / file.name: file.read_bytes() for file in compiled(Path(directory))}
        place = RENDERED if output == COMPILED else output / "retrain"
        try:
            texts = request.rendered(
                request.read(request.FILE), Path(directory) / f"{request.PIPELINE}.k8s.yaml"
            )
        except OmniError as error:
            print(f"pipelines.compile: {error}", file=sys.stderr)
            return 2
    for target, content in {
        **made,
        **{place / name: text.encode() for name, text in texts.items()},
    }.items():
        if not check:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_writer(target) as file:
                file.write(content)
        elif not target.is_file() or target.read_bytes() != content:
            print(
                f"{target} is not current: run `python -m pipelines.compile` and commit it",
                file=sys.stderr,
            )
            stale += 1
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
