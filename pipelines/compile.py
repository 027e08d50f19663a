"""Write `pipelines/compiled/`: each pipeline as IR YAML and as Kubernetes objects.

Also writes what Argo CD applies of the retrain request, `k8s/gitops/retrain/rendered/`.
`python -m pipelines.compile` writes; with `--check` it only compares, names the outdated files and
exits 1.
"""

import argparse
import hashlib
import logging
import sys
import tempfile
from pathlib import Path

import yaml
from kfp.compiler import Compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from omnicore.cluster.request import PIPELINE, RetrainRequest, read_request
from omnicore.errors import OmniError
from omnicore.logs import log_error, set_up
from omnicore.storage.files import atomic_writer
from pipelines.omniboost import omniboost
from pipelines.omniclean import omniclean
from pipelines.retrain import retrain

logger = logging.getLogger(__name__)
PIPELINES = {"omniclean": omniclean, "omniboost": omniboost, "retrain": retrain}
COMPILED = Path(__file__).parent / "compiled"
REQUEST = Path(__file__).parents[1] / "k8s" / "gitops" / "retrain" / "request.yaml"
RENDERED = REQUEST.parent / "rendered"


def compile_pipelines(directory: Path) -> list[Path]:
    """Compile every pipeline into a directory and return the files.

    A version is named by a digest of its content: the same name on a cluster is the same pipeline.
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


def render_request(request: RetrainRequest, manifest: Path) -> dict[str, str]:
    """Return what Argo CD applies of a request, by file name.

    The same request and pipeline give the same bytes.

    Args:
        request: The retrain request.
        manifest: File with the compiled pipeline's objects.

    Returns:
        The objects in the order of their sync waves, and the environment of the submitting job.
    """
    pipeline, version = yaml.safe_load_all(manifest.read_text())
    for wave, resource in enumerate((pipeline, version)):
        resource["metadata"]["annotations"] = {
            "argocd.argoproj.io/sync-wave": str(wave),
            # A version that runs refer to outlives the commit that brought it: no difference then.
            "argocd.argoproj.io/sync-options": "Prune=false",
            "argocd.argoproj.io/compare-options": "IgnoreExtraneous",
        }
        resource["metadata"]["namespace"] = "omnicore"
    return {
        "pipeline.yaml": yaml.safe_dump_all([pipeline, version], sort_keys=False, width=132),
        "submit.env": f"RUN={request.run}\nVERSION={version['metadata']['name']}\n",
    }


def main() -> int:
    """Write or check the compiled files and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="pipelines.compile", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; name the outdated files and exit 1 if there are any",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=COMPILED,
        metavar="DIR",
        help="as in build/pipelines, for one build's images",
    )
    options = parser.parse_args()
    set_up()
    try:
        files = _compile_all(options.output, scratch=None if options.check else options.output)
    except OmniError as error:
        log_error(error, "pipelines.compile")
        return 2
    if not options.check:
        for target, content in files.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_writer(target) as file:
                file.write(content)
        return 0
    outdated = [
        target
        for target, content in files.items()
        if not target.is_file() or target.read_bytes() != content
    ]
    for target in outdated:
        logger.error("%s is outdated: run `python -m pipelines.compile` and commit it", target)
    return 1 if outdated else 0


def _compile_all(output: Path, scratch: Path | None) -> dict[Path, bytes]:
    """Return the content of every file that belongs into `output` and beside it."""
    if scratch:
        scratch.mkdir(parents=True, exist_ok=True)
    rendered_dir = RENDERED if output == COMPILED else output / "retrain"
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        compiled = compile_pipelines(Path(temporary))
        files = {output / file.name: file.read_bytes() for file in compiled}
        manifest = Path(temporary) / f"{PIPELINE}.k8s.yaml"
        rendered = render_request(read_request(REQUEST), manifest)
    for name, text in rendered.items():
        files[rendered_dir / name] = text.encode()
    return files


if __name__ == "__main__":
    sys.exit(main())
