"""Completion scripts, run by the real shells."""

import shutil
import subprocess

import pytest

from omnicore.cli.main import create_parser, main
from omnicore.cli.parser import Parser


@pytest.fixture
def script(capsys, tmp_path, request):
    path = tmp_path / "completion"
    assert main(["completion", request.param]) == 0
    path.write_text(capsys.readouterr().out)
    return path


def complete(script, *words, cwd="/"):
    """Return what bash offers for the last of the words."""
    code = """
        source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
        function=$(complete -p omnicore | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        "$function" omnicore "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    command = ["bash", "--norc", "-c", code, "bash", script, "omnicore", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=cwd
    ).stdout.split()


@pytest.mark.parametrize("script", ["bash"], indirect=True)
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["pro"], {"probe", "promote"}),
        (["cluster", ""], {"submit", "reap", "deploy"}),
        (["manifest", "ex"], {"export"}),
        (["probe", "--dry"], {"--dry-run"}),
        (["manifest", "import", "--listed", ""], {"kept", "removed"}),
        (["completion", ""], {"bash", "zsh"}),
    ],
)
def test_bash_offers_commands_options_and_values(script, words, offered):
    assert offered <= set(complete(script, *words))
    assert "prepare" not in complete(script, *words)


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_offers_files_for_paths(script, tmp_path):
    (tmp_path / "runs").mkdir()
    assert "runs" in complete(script, "compare", "ru", cwd=tmp_path)
    assert "runs" in complete(script, "sft", "--output", "ru", cwd=tmp_path)


@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_script_names_every_command(script):
    def names(parser: Parser):
        for name, command in parser.commands.items():
            yield name
            yield from names(command)

    text = script.read_text()
    assert text.startswith("#compdef omnicore")
    assert all(f"  {name}:'" in text for name in names(create_parser()))
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n", script], check=True)
