"""Assemble the pages of the documentation site in build/docs and build or serve it.

`python -m tools.docs [build|serve]` copies docs/ and the README files, generates the reference pages
from the code (tools/reference.py) and runs Zensical, which fails on a broken link.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tools import reference

ROOT = Path(__file__).parents[1]
CONFIG = "zensical.toml"
# Pages whose source lies outside docs/: path in the repository -> path on the site.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "images/README.md": "images.md",
    "perf/RESULTS.md": "performance.md",
}
COMPONENTS = "reference/components.md"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)(```|~~~)")


def sources(root: Path = ROOT) -> dict[str, str]:
    """Map every copied file, by its path in the repository, to its path on the site."""
    pages = {
        path.relative_to(root).as_posix(): path.relative_to(root / "docs").as_posix()
        for path in sorted((root / "docs").rglob("*"))
        if path.is_file()
    }
    for path in sorted((root / "examples").glob("*/README.md")):
        pages[path.relative_to(root).as_posix()] = f"examples/{path.parent.name}.md"
    pages["examples/README.md"] = "examples/index.md"
    return pages | OUTSIDE


def assemble(target: Path, root: Path = ROOT) -> None:
    """Write all pages of the site below `target`, which is emptied first.

    Raises:
        ValueError: A page links to a file that does not exist in the repository.
    """
    shutil.rmtree(target, ignore_errors=True)
    pages = sources(root)
    generated = reference.pages()
    generated[COMPONENTS] = components_page(root)
    known = pages | {f"docs/{name}": name for name in generated}
    for source, name in pages.items():
        to = target / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if to.suffix == ".md":
            to.write_text(rewrite_links((root / source).read_text(), source, known, root))
        else:
            shutil.copyfile(root / source, to)
    for name, text in generated.items():
        to = target / name
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(text)


def components_page(root: Path) -> str:
    """Return the README of every component as one page, in the order of the pipeline."""
    from omnicore.steps import STEPS

    lines = ["# Pipeline components", "", "Inputs and outputs of the Kubeflow components.", ""]
    for name in (*STEPS, "reap"):
        lines += ["#" + (root / "components" / name / "README.md").read_text()]
    return "\n".join(lines)


def rewrite_links(text: str, source: str, pages: dict[str, str], root: Path = ROOT) -> str:
    """Point a page's links at the site; a link to a file that the site lacks becomes its text.

    Args:
        text: Markdown of the page.
        source: Path of the page in the repository.
        pages: Path in the repository -> path on the site.
        root: The repository.

    Raises:
        ValueError: A link names a file that does not exist.
    """

    def rewrite(link: re.Match[str]) -> str:
        image, label, target = link.groups()
        if re.match(r"[a-z]+:|#", target):
            return link[0]
        place, _, anchor = target.partition("#")
        file = os.path.normpath(Path(source).parent / place)
        if file in pages:
            to = os.path.relpath(pages[file], Path(pages[source]).parent)
            return f"{image}[{label}]({to}{'#' + anchor if anchor else ''})"
        if not (root / file).exists():
            raise ValueError(f"{source}: link to {target}, which does not exist; fix the link")
        return label if label.startswith("`") else f"`{label}`"

    parts, prose, fence = [], [], ""
    for line in text.splitlines(keepends=True):
        mark = FENCE.match(line)
        if mark:
            parts.append(LINK.sub(rewrite, "".join(prose)))
            prose = []
            fence = "" if fence == mark[2] else fence or mark[2]
        if fence or mark:
            parts.append(line)
        else:
            prose.append(line)
    return "".join(parts) + LINK.sub(rewrite, "".join(prose))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", nargs="?", choices=("build", "serve"), default="build")
    parser.add_argument("--address", default="localhost:8080", help="of serve: host and port")
    options = parser.parse_args()
    assemble(ROOT / "build" / "docs")
    command = [sys.executable, "-m", "zensical", options.action, "--config-file", CONFIG]
    if options.action == "serve":
        return subprocess.run([*command, "--dev-addr", options.address], cwd=ROOT).returncode
    return subprocess.run([*command, "--clean", "--strict"], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
