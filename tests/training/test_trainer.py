"""The trainer as a process: it learns, stops, is killed, goes on, and never leaves half an adapter."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from feedback.errors import RunError
from training.bench_kills import forked, run_trainer
from training.recipe import Recipe
from training.trainer import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED

MakeRun = Callable[..., Path]


def start(run: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "training.trainer", str(run)], stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], *, timeout: float = 240) -> tuple[int, str]:
    _, errors = process.communicate(timeout=timeout)
    return process.returncode, errors


def train_here(run: Path) -> dict[str, Any] | None:
    """Train in this process, without the priority and signals of the real one."""
    from training.session import train

    recipe = Recipe.from_json((run / "config.json").read_text("utf-8"))
    return train(run, recipe, stop=SimpleNamespace(asked=False, training=False), started=time.monotonic())


def progress(run: Path) -> list[dict[str, Any]]:
    try:
        lines = (run / "progress.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]
    except (FileNotFoundError, json.JSONDecodeError):
        return []


def result(run: Path) -> dict[str, Any]:
    content = json.loads((run / "result.json").read_text("utf-8"))
    assert isinstance(content, dict)
    return content


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str], *, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the trainer ended too early: {process.communicate()[1]}"
        assert time.monotonic() < end, "the trainer did not get there in time"
        time.sleep(0.02)


def weights(run: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return dict(load_file(run / "adapter" / "adapter_model.safetensors"))


def test_the_adapters_weights_move_and_the_bases_do_not(make_run: MakeRun, tiny_base: Path) -> None:
    before = (tiny_base / "model.safetensors").read_bytes()
    run = make_run(epochs=6.0, learning_rate=5e-3)
    figures = train_here(run)
    assert figures is not None and figures["steps"] == figures["planned_steps"] == 36
    ups = {name: value for name, value in weights(run).items() if "lora_B" in name}
    assert len(ups) == 14 and all(np.abs(value).max() > 0 for value in ups.values())
    losses = [line["loss"] for line in progress(run)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert (tiny_base / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in (run / "adapter").iterdir()) == [
        "adapter.gguf",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    settings = json.loads((run / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert settings["base_model_name_or_path"] == "tiny-llama"
    assert str(tiny_base) not in (run / "adapter" / "adapter_config.json").read_text("utf-8")


def test_every_step_has_a_progress_line_with_what_a_page_shows(make_run: MakeRun) -> None:
    run = make_run(max_steps=5)
    train_here(run)
    lines = progress(run)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert set(lines[0]) >= {"stage", "step", "steps", "loss", "learning_rate", "tokens", "tokens_s", "rss_mb", "eta_s", "at"}
    assert all(line["steps"] == 5 and line["rss_mb"] > 50 and line["tokens_s"] > 0 for line in lines)
    assert lines[-1]["tokens"] > lines[0]["tokens"] > 4 * 100
    assert lines[-1]["eta_s"] == 0 and lines[0]["learning_rate"] > lines[-1]["learning_rate"] > 0


def test_a_packed_base_trains_too_with_its_adapter_in_float32(make_run: MakeRun) -> None:
    run = make_run(max_steps=3, dequantised="nf4")
    figures = train_here(run)
    assert figures is not None and figures["dequantised"] == "nf4"
    assert all(value.dtype == np.float32 for value in weights(run).values())
    assert any(np.abs(value).max() > 0 for name, value in weights(run).items() if "lora_B" in name)


def test_the_budget_ends_a_training_that_would_take_longer(make_run: MakeRun) -> None:
    run = make_run(epochs=100_000.0, minutes=0.25)
    begun = time.monotonic()
    figures = train_here(run)
    assert figures is not None and 0 < figures["steps"] < figures["planned_steps"]
    assert time.monotonic() - begun < 25


def test_rows_that_are_too_long_are_refused_before_anything_is_trained(make_run: MakeRun) -> None:
    run = make_run(max_length=125)
    with pytest.raises(RunError, match=r"of 24 examples are longer than 125 tokens .* leave them out"):
        train_here(run)
    assert not (run / "adapter").exists() and progress(run) == []


def test_a_loss_that_is_not_a_number_ends_the_training_and_leaves_no_adapter(make_run: MakeRun) -> None:
    run = make_run(learning_rate=1e30, clip=1e30)
    with pytest.raises(RunError, match="lower the learning rate"):
        train_here(run)
    assert not (run / "adapter").exists()


def test_a_failure_is_one_sentence_in_the_run_folder_and_exit_code_1(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    (run / "config.json").write_text('{"base": "nowhere", "rang": 3}', "utf-8")
    code, errors = finish(start(run))
    assert code == EXIT_FAILED and "unknown key 'rang'" in errors and "Traceback" not in errors
    assert result(run)["outcome"] == "failed" and "unknown key 'rang'" in result(run)["reason"]


def test_a_second_trainer_on_the_same_run_is_refused_and_disturbs_nothing(make_run: MakeRun) -> None:
    run = make_run()
    with (run / "trainer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, errors = finish(start(run))
    assert code == EXIT_FAILED and "Another trainer is working on r0001" in errors
    assert not (run / "result.json").exists()


def test_the_trainer_ends_within_ten_seconds_of_its_parents_death(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(epochs=100_000.0)
    code = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-m', 'training.trainer', sys.argv[1]]); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    wait_for(lambda: progress(run), parent)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while alive(child) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(child)
    assert not (run / "adapter").exists()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_stopped_and_started_again_it_ends_with_the_adapter_of_an_undisturbed_training(make_run: MakeRun) -> None:
    undisturbed = make_run(name="r0001", epochs=16.0)
    assert train_here(undisturbed) is not None
    disturbed = make_run(name="r0002", nice=7, epochs=16.0)
    stopped = forked(run_trainer, str(disturbed))
    while len(progress(disturbed)) < 3:
        assert stopped.is_alive()
        time.sleep(0.01)
    stopped.terminate()
    stopped.join(120)
    assert stopped.exitcode == EXIT_STOPPED and result(disturbed)["outcome"] == "stopped"
    assert not (disturbed / "adapter").exists() and list(disturbed.glob("checkpoints/*/COMPLETE"))

    again = forked(run_trainer, str(disturbed))
    again.join(120)
    assert again.exitcode == EXIT_DONE
    figures = result(disturbed)
    assert figures["outcome"] == "done" and figures["resumed_from"] > 0 and figures["steps"] == 96
    assert figures["nice"] == min(19, os.nice(0) + 7)  # it yields to the server
    assert [line["step"] for line in progress(disturbed)] == list(range(1, 97))
    expected, got = weights(undisturbed), weights(disturbed)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-3, atol=1e-5)


def test_a_killed_save_is_not_taken_for_an_adapter(make_run: MakeRun) -> None:
    run = make_run(max_steps=2)
    (run / "adapter.partial").mkdir()
    (run / "adapter.partial" / "adapter_model.safetensors").write_bytes(b"half")
    assert train_here(run) is not None
    assert not (run / "adapter.partial").exists() and len(weights(run)) == 28
