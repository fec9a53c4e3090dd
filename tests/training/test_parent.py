"""A process ends with the one that started it, even when that one was dead before it could look."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.parent import EXIT_ORPHANED

WAIT = "import sys, time; from training.parent import end_with_parent; end_with_parent(*map(int, sys.argv[1:])); "


@pytest.fixture
def dead() -> int:
    """Give the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def run(root: Path, code: str, *arguments: object) -> int:
    command = [sys.executable, "-c", WAIT + code, *map(str, arguments)]
    return subprocess.run(command, cwd=root, timeout=30, check=False).returncode


def test_who_starts_after_its_parents_death_ends_at_once(pytestconfig: pytest.Config, dead: int) -> None:
    assert run(pytestconfig.rootpath, "time.sleep(60)", dead) == EXIT_ORPHANED


def test_who_has_its_parent_goes_on_named_or_not(pytestconfig: pytest.Config) -> None:
    assert run(pytestconfig.rootpath, "time.sleep(1.5); sys.exit(0)", os.getpid()) == 0
    assert run(pytestconfig.rootpath, "time.sleep(0.1); sys.exit(0)") == 0


def test_a_trainer_whose_night_died_before_it_began_touches_nothing(
    pytestconfig: pytest.Config, tmp_path: Path, dead: int
) -> None:
    command = [sys.executable, "-m", "training.trainer", str(tmp_path)]
    ended = subprocess.run([*command, str(dead)], cwd=pytestconfig.rootpath, timeout=60, check=False)
    assert ended.returncode == EXIT_ORPHANED
    assert not (tmp_path / "result.json").exists()
    wrong = subprocess.run([*command, "yes"], cwd=pytestconfig.rootpath, timeout=60, check=False, capture_output=True, text=True)
    assert wrong.returncode == 2 and "usage" in wrong.stderr
