"""The command line: bad input is one line on stderr and exit code 1, wrong usage is 2, and tables are also JSON."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from assistant.cli import main
from assistant.home import Home
from feedback.store import FeedbackStore
from training.methods import FILES
from training.registry import AdapterRegistry


def nightschool(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "assistant.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "NIGHTSCHOOL_HOME": str(home), **environment},
        check=False,
    )


def test_help_names_every_command_and_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = "torch, transformers, gradio, pandas, sqlite_utils, xllamacpp"
    code = (
        "import sys; sys.argv = ['nightschool', '--help']\n"
        "from assistant.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print([name for name in '{heavy}'.split(', ') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    for command in ("serve", "ask", "documents", "feedback", "night", "runs", "adapters", "users", "bench", "demo"):
        assert command in said
    assert said.strip().endswith("[]")


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["adapters", "show", "v0099"], {}, "There is no adapter 'v0099'"),
        (["adapters", "promote", "v0099", "--reason", "why not"], {}, "There is no adapter 'v0099'"),
        (["adapters", "promote", "v0099", "--reason", " "], {}, "needs a reason"),
        (["runs", "show", "r0099"], {}, "r0099"),
        (["examine", "--adapter", "v0001"], {}, "There are no questions to examine with"),
        (["runs", "cancel", "r0099"], {}, "r0099"),
        (["documents", "add", "/no/such/folder"], {}, "/no/such/folder is not there"),
        (["documents", "remove", "gone.md"], {}, "no document 'gone.md'"),
        (["users", "list"], {"NIGHTSCHOOL_SERVER__PROT": "1"}, "server.prot"),
        (["ask", "x"], {"NIGHTSCHOOL_ENGINE__BASE_MODEL": "gone-7b"}, "no base model 'gone-7b'"),
        (["night", "--now"], {"NIGHTSCHOOL_ENGINE__BASE_MODEL": "gone-7b"}, "no base model 'gone-7b'"),
        (["bootstrap"], {"NIGHTSCHOOL_NIGHT__OBJECTIVE": "dpo"}, "'dpo' learns from ratings alone"),
        (["demo", "--documents", "/no/such", "--questions", "/no/such.jsonl"], {}, "no documents folder /no/such"),
    ],
)
def test_bad_input_is_one_clear_sentence(tmp_path: Path, arguments: list[str], environment: dict[str, str], said: str) -> None:
    done = nightschool(tmp_path, *arguments, **environment)
    assert done.returncode == 1
    assert said in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["nigth"],
        ["demo", "--documents", "x"],
        ["demo", "--minutes", "-1"],
        ["demo", "--minutes", "0"],
        ["--home", "elsewhere", "demo"],
        ["serve", "--port", "99999"],
        ["night"],
        ["bench", "swap", "--streams", "0"],
    ],
)
def test_wrong_usage_is_exit_code_2(tmp_path: Path, arguments: list[str]) -> None:
    assert nightschool(tmp_path, *arguments).returncode == 2


def test_tables_are_also_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "one.md").write_text("# One\n\nThe gate closes at 18:30.\n", encoding="utf-8")
    home = tmp_path / "home"
    home.mkdir()
    (home / "nightschool.toml").write_text('[documents]\nencoder = "none"\n', encoding="utf-8")
    assert json.loads(nightschool(home, "documents", "add", str(folder), "--json").stdout)["added"] == 1
    assert [row["path"] for row in json.loads(nightschool(home, "documents", "list", "--json").stdout)] == ["one.md"]
    (hit,) = json.loads(nightschool(home, "documents", "search", "When does the gate close?", "--json").stdout)
    assert hit["document"] == "one.md" and 0 < hit["score"] <= 1
    assert "one.md" in nightschool(home, "documents", "list").stdout
    monkeypatch.setenv("NIGHTSCHOOL_HOME", str(home))
    for table in (["runs", "list"], ["adapters", "list"], ["feedback", "list"], ["users", "list"]):
        monkeypatch.setattr(sys, "argv", ["nightschool", *table, "--json"])  # in this process: each start takes seconds
        with contextlib.suppress(SystemExit):
            main()
        assert json.loads(capsys.readouterr().out) == []


def test_a_user_added_on_the_command_line_may_log_in(tmp_path: Path) -> None:
    done = nightschool(tmp_path, "users", "add", "dora", "--admin", "--password", "a long enough password")
    assert done.returncode == 0, done.stderr
    user = FeedbackStore(Home(tmp_path).db).verify_user("dora", "a long enough password")
    assert user is not None and user.role == "admin"
    assert "exists already" in nightschool(tmp_path, "users", "add", "dora", "--password", "another password").stderr


def test_a_reset_prints_a_one_time_password_that_opens(tmp_path: Path) -> None:
    nightschool(tmp_path, "users", "add", "dora", "--password", "a long enough password")
    done = nightschool(tmp_path, "users", "reset", "dora")
    assert done.returncode == 0 and done.stdout.startswith("dora / ")
    user = FeedbackStore(Home(tmp_path).db).verify_user("dora", done.stdout.split()[2])
    assert user is not None and user.must_change_password
    assert "There is no user 'nobody'" in nightschool(tmp_path, "users", "reset", "nobody").stderr


def test_a_promotion_claims_no_more_than_it_knows(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for name in FILES["lora"]:
        (tmp_path / name).write_text("{}", encoding="utf-8")
    AdapterRegistry(home.db, home.adapters).publish(tmp_path, {}, "candidate", None)
    promoted = nightschool(tmp_path, "adapters", "promote", "v0001", "--reason", "a try").stdout
    assert promoted.startswith("v0001 is promoted. A running server follows within two seconds")
    assert "in service" not in promoted and "one that refuses it goes back" in promoted
    assert nightschool(tmp_path, "adapters", "rollback").stdout.startswith("Rolled back to base. A running server follows")


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = nightschool(tmp_path, "serve", "--port", str(port))
    assert done.returncode == 1
    assert f"127.0.0.1:{port} cannot be used" in done.stderr and "--port" in done.stderr
    assert "Importing" not in done.stderr and not any((tmp_path / "models").glob("*"))  # said before anything takes a minute


def test_a_second_server_on_the_same_home_is_refused(tmp_path: Path) -> None:
    with Home(tmp_path).serving():
        done = nightschool(tmp_path, "serve", "--port", "7999")
    assert done.returncode == 1 and "already serves" in done.stderr
    assert "Importing" not in done.stderr and not any((tmp_path / "models").glob("*"))


@pytest.mark.model
@pytest.mark.parametrize(("question", "said"), [("", "The question is empty"), ("x" * 10_000, "10,000 characters")])
def test_a_question_that_cannot_be_asked_is_one_clear_sentence(tmp_path: Path, base: object, question: str, said: str) -> None:
    (tmp_path / "models").symlink_to(base.path.parent)  # type: ignore[attr-defined]
    done = nightschool(tmp_path, "ask", question)
    assert done.returncode == 1 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1
