"""The documentation is true: settings, commands, links and figures' commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from assistant.config import Settings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_setting_is_described_with_its_default_and_no_other_is() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    described = set()
    section = ""
    for line in text.splitlines():
        if match := re.match(r"## \[(\w+)\]", line):
            section = match[1]
        elif match := re.match(r"\| `(\w+)` \| `\"?(.*?)\"?` \|", line):
            described.add((section, match[1], match[2]))
    known = {
        (name, key, str(field.default))
        for name, part in Settings.model_fields.items()
        for key, field in part.annotation.model_fields.items()  # type: ignore[union-attr]
    }
    assert described == known


COMMANDS = sorted({match.strip() for match in re.findall(r"nightschool ((?:[a-z]+ ?){1,2})", README)})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_exists(command: str) -> None:
    from assistant.cli import app

    words = command.split()
    for length in (len(words), 1):
        if CliRunner().invoke(app, [*words[:length], "--help"]).exit_code == 0:
            return
    pytest.fail(f"`nightschool {command}` is not a command")


def test_every_relative_link_of_the_readme_resolves() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_file_in_the_tree_of_the_readme_exists() -> None:
    tree = README.split("## The tree")[1].split("```")[1]
    folder = ""
    for line in tree.strip().splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name
            assert (ROOT / name).is_dir(), name
        else:
            for each in re.findall(r"[\w./*]+\.py|\w+/", line.split("  ")[1]):
                assert list((ROOT / folder).glob(each)) or list((ROOT / folder).glob(each.rstrip("/"))), f"{folder}{each}"


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
