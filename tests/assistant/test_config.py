"""Settings: defaults, sources, and every fault at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.config import load, parse
from assistant.home import Home
from feedback.errors import NightschoolError, SettingsError
from training.recipe import TRACKERS
from training.trackers import not_installed


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "nightschool.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert parse(tmp_path / "nightschool.toml", {}).server.port == 7860


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "[server]\nport = 8000\nhost = '0.0.0.0'\n")
    settings = parse(file, {"NIGHTSCHOOL_SERVER__PORT": "9000", "NIGHTSCHOOL_HOME": "/x", "HOME": "/y"})
    assert (settings.server.port, settings.server.host) == (9000, "0.0.0.0")


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, "[server]\nprot = 1\n[chat]\nthreshold = 7\n[nights]\ncron = ''\n")
    with pytest.raises(SettingsError) as caught:
        parse(file, {"NIGHTSCHOOL_ENGINE__KIND": "gpt"})
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for part in ("server.prot", "chat.threshold = 7", "'nights'", "engine.kind = 'gpt'"):
        assert any(part in line for line in lines), part


def test_a_method_that_the_engine_cannot_serve_is_refused_when_the_settings_are_read(tmp_path: Path) -> None:
    file = written(tmp_path, "[night]\nmethod = 'dora'\nobjective = 'sft+dpo'\n")
    assert parse(file, {"NIGHTSCHOOL_ENGINE__KIND": "transformers"}).night.objective == "sft+dpo"
    with pytest.raises(SettingsError, match=r"'dora' cannot be served by llama_cpp .*'rslora'"):
        parse(file, {"NIGHTSCHOOL_ENGINE__KIND": "llama_cpp"})


@pytest.mark.parametrize("name", ["NIGHTSCHOOL_TYPO", "NIGHTSCHOOL_SERVER__PROT", "NIGHTSCHOOL_TYPO__X"])
def test_an_unknown_variable_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=r"the environment: .*(typo|prot)"):
        parse(tmp_path / "none.toml", {name: "1"})


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nightschool\.toml cannot be read"):
        parse(written(tmp_path, "[server\n"), {})


def test_the_home_comes_from_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSCHOOL_HOME", str(tmp_path / "there"))
    home, _ = load()
    assert home.root == (tmp_path / "there").resolve() and home.adapters.is_dir()


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NightschoolError, match="cannot be used"):
        Home(tmp_path / "file" / "home")


def test_a_home_has_one_server(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.serving(), pytest.raises(NightschoolError, match="already serves"), Home(tmp_path).serving():
        pass
    with Home(tmp_path).serving():
        pass


def test_trackers_are_named_as_a_list_or_with_commas_and_refused_where_they_are_unknown_or_not_installed(tmp_path: Path) -> None:
    file = tmp_path / "nightschool.toml"
    assert parse(file, {"NIGHTSCHOOL_NIGHT__REPORT_TO": ""}).night.report_to == ()
    with pytest.raises(
        SettingsError, match=r"the environment: night.report_to = 'comet, wandb' .*choose from tensorboard, trackio"
    ):
        parse(file, {"NIGHTSCHOOL_NIGHT__REPORT_TO": "comet, wandb"})
    file.write_text("[night]\nreport_to = [3]\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"nightschool.toml: night.report_to = 3"):
        parse(file, {})
    for name in TRACKERS:
        file.write_text(f'[night]\nreport_to = ["{name}"]\n', encoding="utf-8")
        if not_installed([name]):
            with pytest.raises(SettingsError, match=f"not installed here: `pip install {name}`"):
                parse(file, {})
        else:
            assert parse(file, {}).night.report_to == (name,)


def test_shares_that_leave_the_ratings_no_part_are_a_fault_beside_the_others(tmp_path: Path) -> None:
    text = "[night]\nseed_share = 0.5\nstarter_share = 0.4\ngeneral_share = 0.1\n[server]\nport = 0\n"
    with pytest.raises(SettingsError) as caught:
        parse(written(tmp_path, text), {})
    lines = sorted(str(caught.value).splitlines())
    assert len(lines) == 2 and "server.port = 0" in lines[1]
    assert "[night]: seed_share, starter_share and general_share are 1.0 together: at most 0.9" in lines[0]
    with pytest.raises(SettingsError, match=r"night\.absent_share = 0\.95"):
        parse(written(tmp_path, "[night]\nabsent_share = 0.95\n"), {})


@pytest.mark.parametrize(("one", "other"), [("patience = 3", "evaluation_share"), ("keep_activations = true", "upper_layers")])
def test_half_of_a_pair_of_training_settings_is_a_fault_that_names_the_other(tmp_path: Path, one: str, other: str) -> None:
    name = one.partition(" ")[0]
    with pytest.raises(SettingsError, match=rf"{name} needs {other}: set it too"):
        parse(written(tmp_path, f"[night]\n{one}\n"), {})
    assert parse(written(tmp_path, f"[night]\n{one}\n{other} = {'0.1' if other == 'evaluation_share' else '4'}\n"), {})


def test_upper_layers_of_a_method_without_layers_are_refused_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no adapted layers to choose from: leave upper_layers = 4 out"):
        parse(written(tmp_path, "[night]\nmethod = 'full'\nupper_layers = 4\n[engine]\nkind = 'transformers'\n"), {})


def test_settings_that_an_objective_would_pass_over_are_refused_when_they_are_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'kto' .* pass over evaluation_share = 0\.1: .* choose objective = 'sft\+kto'"):
        parse(written(tmp_path, "[night]\nobjective = 'kto'\nevaluation_share = 0.1\n"), {})
    assert parse(written(tmp_path, "[night]\nobjective = 'sft+kto'\nevaluation_share = 0.1\n"), {})
