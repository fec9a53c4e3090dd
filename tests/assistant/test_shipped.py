"""The starter adapter: it ships whole and small, comes into a home without adapters, and nowhere else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from assistant.adapter_checks import check_adapter
from assistant.engines.base import AdapterVersion
from assistant.home import Home
from assistant.models import BaseModel
from assistant.shipped import REASON, STARTER, install_starter, starter_version
from feedback.errors import AdapterError
from training.registry import AdapterRegistry

pytestmark = pytest.mark.model


@pytest.fixture
def registry(tmp_path: Path) -> AdapterRegistry:
    home = Home(tmp_path)
    return AdapterRegistry(home.db, home.adapters)


def test_what_ships_is_whole_small_half_precision_and_says_what_it_learnt_from() -> None:
    assert (STARTER / "adapter_model.safetensors").stat().st_size <= 10_000_000
    card = json.loads((STARTER / "card.json").read_text("utf-8"))
    assert card["rows"]["starter"] > 1_000 and card["recipe"]["rank"] == 16
    from safetensors.numpy import load_file

    assert {str(value.dtype) for value in load_file(STARTER / "adapter_model.safetensors").values()} == {"float16"}


def test_a_home_without_adapters_begins_with_it_once_and_can_go_back_to_the_base(
    registry: AdapterRegistry, base: BaseModel
) -> None:
    assert install_starter(registry, base) == "v0001"
    assert registry.current() == "v0001" and registry.promotions()[0].reason == REASON
    check_adapter(
        AdapterVersion(version="v0001", path=registry.path("v0001")),
        hf_dir=base.hf_dir,
        base_sha256=base.sha256,
        engine="llama_cpp",
    )
    assert registry.rollback("admin") == "base"
    assert install_starter(registry, base) is None  # who went back stays there
    assert registry.current() == "base"


def test_a_training_begins_from_it_only_where_method_and_rank_are_its_own(registry: AdapterRegistry, base: BaseModel) -> None:
    assert starter_version(registry, method="qlora", rank=16) is None
    install_starter(registry, base)
    assert starter_version(registry, method="qlora", rank=16) == "v0001"
    assert starter_version(registry, method="qlora", rank=8) is None
    assert starter_version(registry, method="dora", rank=16) is None
    assert starter_version(registry, method="qlora", rank=16, upper_layers=10) is None


def test_another_base_model_does_not_get_it(registry: AdapterRegistry, base: BaseModel) -> None:
    assert install_starter(registry, replace(base, sha256="another")) is None
    assert registry.list() == []


def test_a_damaged_copy_is_one_sentence_and_nothing_is_published(
    registry: AdapterRegistry, base: BaseModel, tmp_path: Path
) -> None:
    broken = tmp_path / "starter"
    shutil.copytree(STARTER, broken)
    (broken / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"has no adapter_model.safetensors: install Nightschool again"):
        install_starter(registry, base, folder=broken)
    (broken / "card.json").write_text("{", encoding="utf-8")
    with pytest.raises(AdapterError, match=r"card.json cannot be read"):
        install_starter(registry, base, folder=broken)
    assert registry.list() == []
