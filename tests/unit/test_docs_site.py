"""The documentation site: strict links, nothing from the network, complete reference pages."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from omnicore.config.recipe import Recipe, load_recipe
from tools import docs, reference

ROOT = Path(__file__).parents[2]
# What a browser fetches by itself when it shows a page; a link that a reader follows is not one.
LOADS = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon))[^>]*\bhref=["']?(?:https?:)?//"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//|\burl\(["']?(?:https?:)?//"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zensical")
    folder = tmp_path_factory.mktemp("site")
    docs.assemble(folder / "build" / "docs")
    config = (ROOT / docs.CONFIG).read_text().replace('paths = ["."]', f'paths = ["{ROOT}"]')
    (folder / docs.CONFIG).write_text(config)
    command = [sys.executable, "-m", "zensical", "build", "--config-file", docs.CONFIG, "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "site"


def test_navigation_lists_every_page(site: Path) -> None:
    listed = set(re.findall(r'"([\w./-]+\.md)"', (ROOT / docs.CONFIG).read_text()))
    folder = site.parent / "docs"
    assert listed == {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")}


def test_site_loads_nothing_from_the_network(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in {".html", ".css"}]
    assert len(files) > 20
    found = {path.relative_to(site).as_posix(): LOADS.findall(path.read_text()) for path in files}
    assert {name: loads for name, loads in found.items() if loads} == {}


@pytest.mark.parametrize(
    "text",
    [
        '<script defer src="https://cdn.example/a.js">',
        '<link rel="stylesheet" href="//fonts.example/css">',
        "@font-face { src: url(https://fonts.example/a.woff2) }",
    ],
)
def test_network_check_finds_loads(text: str) -> None:
    assert LOADS.search(text)
    assert not LOADS.search('<a href="https://arxiv.org/abs/2605.12034">')


def test_public_api_is_documented(site: Path) -> None:
    page = (site / "reference" / "api" / "index.html").read_text()
    names = reference.public_names()
    assert {"judge", "load_recipe", "load_run", "DataError"} <= names.keys()
    assert [path for path in names.values() if f'id="{path}"' not in page] == []


def recipe_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (section, field) of a recipe, nested sections included, by pydantic's own JSON schema."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})

    def visit(section: dict, name: str) -> Iterator[tuple[str, str]]:
        for field, details in section["properties"].items():
            yield name, field
            text = str(details)
            for inner in set(re.findall(r"#/\$defs/(\w+)", text)):
                if "properties" in definitions[inner]:
                    suffix = ".NAME" if "additionalProperties" in details else ""
                    yield from visit(definitions[inner], f"{name}.{field}{suffix}".lstrip("."))

    yield from visit(schema, prefix)


def test_recipe_page_has_every_field() -> None:
    page = reference.recipe_page()
    sections = {
        name: title.split(", ")[0]
        for title in re.findall(r"^## (.+)$", page, re.MULTILINE)
        for name in title.split(", ")
    }
    sections[""] = ""
    fields = list(recipe_fields(Recipe))
    assert len(fields) > 150
    missing = [
        f"{section}.{field}"
        for section, field in fields
        if f"| `{sections[section]}.{field}` |".replace("`.", "`") not in page
    ]
    assert missing == []


def test_recipe_page_shows_type_default_and_bounds() -> None:
    rows = reference.recipe_page().splitlines()
    (row,) = [row for row in rows if row.startswith("| `profile.max_frames` |")]
    assert row.split(" | ")[1:3] == ["integer; ≥ 1", "`32`"]
    (row,) = [row for row in rows if row.startswith("| `profile.style` |")]
    assert row.split(" | ")[1:3] == ['"value" or "letter"', '`"value"`']


def test_cli_page_has_every_command_and_option() -> None:
    page = reference.cli_page()
    top = subprocess.run(
        [sys.executable, "-m", "omnicore", "--help"], capture_output=True, text=True, check=True
    ).stdout
    commands = re.findall(r"^    ([a-z][a-z-]*)(?:  |$)", top, re.MULTILINE)
    assert {"prepare", "evaluate", "serve"} < set(commands)
    assert [name for name in commands if f"## omnicore {name}\n" not in page] == []
    for parser in reference.commands(reference.cli_parser()):
        section = page.partition(f"## {parser.prog}\n")[2].partition("\n## ")[0]
        options = set(re.findall(r"--[a-z][a-z-]*", parser.format_usage())) - {"--help"}
        assert [option for option in options if f"| `{option}" not in section] == []


def test_architecture_shows_the_packages_and_layers_as_they_are() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "omnicore"
    names = {path.parent.name for path in package.glob("*/__init__.py")}
    names |= {path.stem for path in package.glob("*.py") if not path.stem.startswith("__")}
    described = re.findall(r"^\| `(\w+)` \|", page.partition("## Packages of omnicore")[2], re.M)
    assert sorted(described) == sorted(names)
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = [
        contract
        for contract in config["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    layers = [set(re.findall(r"omnicore\.(\w+)", layer)) for layer in contract["layers"]]
    (drawing,) = re.findall(r"```text\n(cli\n.*?)```", page, re.S)
    assert [set(line.split()) for line in drawing.splitlines()] == layers


def test_modules_page_has_every_module() -> None:
    page = reference.modules_page()
    modules = [path for path in (ROOT / "omnicore").rglob("*.py") if path.name != "__init__.py"]
    assert page.count("\n| `") == len(modules)
    assert "| `verify` |" in page.partition("## omnicore.scoring\n")[2].partition("\n## ")[0]


def test_error_codes_are_read_from_raise_statements(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "module.py").write_text(
        'def read(path, line):\n    raise DataError(f"{path}:{line}: no answer" " here",'
        ' code="row-no-answer", path=path)\n'
    )
    (found,) = reference.error_codes(tmp_path / "room")
    assert found == ("row-no-answer", "DataError", "{path}:{line}: no answer here", "room.module")


def documented_commands() -> list[str]:
    """Return every `omnicore` command in the `sh` blocks of the how-to pages."""
    pages = sorted((ROOT / "docs" / "howto").glob("*.md"))
    blocks = [
        block for page in pages for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S)
    ]
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("line", documented_commands())
def test_commands_of_the_how_to_pages_parse(line: str) -> None:
    program, *arguments = shlex.split(line)
    assert program == "omnicore"
    _, unknown = reference.cli_parser().parse_known_args(arguments)
    assert unknown == []


def test_recipes_of_the_how_to_pages_load(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    page = (ROOT / "docs" / "howto" / "recipes.md").read_text()
    recipe.write_text(*re.findall(r"```yaml\n(.*?)```", page, re.S))
    assert load_recipe(str(recipe)).rlvr.learning_rate == 1e-5
    page = (ROOT / "docs" / "howto" / "own-table.md").read_text()
    recipe.write_text(
        "extends: tiny\nname: mine\n" + re.findall(r"```yaml\n(.*?)```", page, re.S)[0]
    )
    assert load_recipe(str(recipe)).prepare.sources["mine"].columns["answer"] == "gold"


def test_named_modules_and_tests_exist() -> None:
    pages = [ROOT / "README.md", ROOT / "AGENTS.md", ROOT / "CONTRIBUTING.md"]
    for page in [*pages, *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text()
        files = re.findall(r"`((?:omnicore|tests|tools|perf|pipelines|k8s)/[\w./-]+\.\w+)", text)
        assert [name for name in files if not (ROOT / name).exists()] == [], page.name
        for name, test in re.findall(r"`(tests/[\w./]+\.py)::(\w+)`", text):
            assert f"def {test}(" in (ROOT / name).read_text(), f"{page.name}: {name}::{test}"
        rooms = "cluster|config|data|media|models|runtime|scoring|storage|telemetry|training"
        modules = re.findall(rf"`((?:{rooms})/[\w/]+\.py)`", text)
        assert [name for name in modules if not (ROOT / "omnicore" / name).exists()] == [], (
            page.name
        )


def test_troubleshooting_names_codes_that_exist() -> None:
    known = {error.code for error in reference.error_codes()}
    named = set()
    for page in sorted((ROOT / "docs").rglob("*.md")):
        rows = page.read_text().partition("| code |")[2].partition("\n\n")[0].splitlines()[2:]
        codes = [code for row in rows for code in re.findall(r"`([a-z0-9-]+)`", row.split("|")[1])]
        assert set(codes) <= known, page.name
        named |= set(codes)
    assert named


def test_links_outside_the_site_become_text() -> None:
    pages = {"README.md": "index.md", "docs/audit.md": "audit.md"}
    text = "[guide](docs/audit.md#media) and [the package](omnicore)\n\n```\n[a](docs/b.md)\n```\n"
    assert docs.rewrite_links(text, "README.md", pages) == (
        "[guide](audit.md#media) and `the package`\n\n```\n[a](docs/b.md)\n```\n"
    )
    with pytest.raises(ValueError, match=r"docs/gone\.md"):
        docs.rewrite_links("[x](docs/gone.md)", "README.md", pages)
