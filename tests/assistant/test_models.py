"""Base models: what is imported is whole and is what was shipped; what is missing or damaged is said in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from assistant.models import EMBEDDED, BaseModel, file_sha256, open_base, requantise, verify_base, write_gguf
from feedback.errors import ModelError


@pytest.fixture
def small_gguf(tmp_path: Path) -> Path:
    """A GGUF of two tensors: a matrix in Q8_0 and a norm in F32."""
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    path = tmp_path / "small.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_token_list(["a", "b"])
    matrix = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    writer.add_tensor("token_embd.weight", quantize(matrix, GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a Hugging Face model, without a model in them."""
    path = tmp_path / "company-model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text("{}")
    save_file({"w": np.zeros(3, np.float32)}, path / "model.safetensors")
    return path


def test_requantising_keeps_values_norms_and_metadata(small_gguf: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    out = tmp_path / "f16.gguf"
    requantise(small_gguf, out, quantisation="F16")
    before, after = GGUFReader(small_gguf), GGUFReader(out)
    assert [tensor.tensor_type.name for tensor in after.tensors] == ["F16", "F32"]
    for old, new in zip(before.tensors, after.tensors, strict=True):
        np.testing.assert_allclose(dequantize(new.data, new.tensor_type), dequantize(old.data, old.tensor_type), rtol=1e-3)
    assert after.fields["tokenizer.ggml.tokens"].contents() == ["a", "b"]
    assert after.fields["llama.context_length"].contents() == 128
    assert after.fields["general.file_type"].contents() == 1  # mostly F16


def test_a_name_that_is_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no base model 'no-such-model'"):
        open_base(tmp_path, "no-such-model")


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_is_no_model_is_refused_by_what_it_lacks(folder: Path, tmp_path: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=r"it has no .*" + Path(missing).suffix):
        open_base(tmp_path / "models", str(folder))


def test_a_folder_is_opened_in_place_and_its_hash_follows_its_weights(folder: Path, tmp_path: Path) -> None:
    first = open_base(tmp_path / "models", str(folder))
    assert (first.name, first.hf_dir, first.gguf_path) == ("company-model", folder, None)
    assert open_base(tmp_path / "models", str(folder)) == first
    save_file({"w": np.ones(4, np.float32)}, folder / "model.safetensors")
    assert open_base(tmp_path / "models", str(folder)).sha256 != first.sha256


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """An imported model's folder with small files."""
    path = tmp_path / "models" / "imported"
    (path / "hf").mkdir(parents=True)
    (path / "model.gguf").write_bytes(b"gguf")
    (path / "hf" / "config.json").write_text("{}")
    files = {
        name: {"bytes": (path / name).stat().st_size, "sha256": file_sha256(path / name)}
        for name in ("model.gguf", "hf/config.json")
    }
    (path / "base.json").write_text(json.dumps({"name": "imported", "sha256": "a" * 64, "files": files}))
    return path


def test_a_file_cut_short_is_noticed_when_the_model_is_opened(imported: Path) -> None:
    assert open_base(imported.parent, "imported").sha256 == "a" * 64
    (imported / "model.gguf").write_bytes(b"gg")
    with pytest.raises(ModelError, match=r"damaged \(model.gguf\)"):
        open_base(imported.parent, "imported")


def test_a_changed_byte_is_noticed_when_the_model_is_verified(imported: Path) -> None:
    base = open_base(imported.parent, "imported")
    verify_base(base)
    (imported / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"damaged \(model.gguf\)"):
        verify_base(base)


@pytest.mark.parametrize("content", ["", "[]", '{"name": "imported"}'])
def test_a_broken_manifest_is_refused(imported: Path, content: str) -> None:
    (imported / "base.json").write_text(content)
    with pytest.raises(ModelError, match=r"no readable base\.json"):
        open_base(imported.parent, "imported")


@pytest.mark.model
def test_the_embedded_model_is_imported_whole(base: BaseModel) -> None:
    verify_base(base)
    assert base.name == EMBEDDED
    assert base.gguf_path is not None
    assert not [path for path in base.path.parent.iterdir() if path.name.startswith(f".{EMBEDDED}")]  # no half-written import


@pytest.mark.model
def test_the_f16_gguf_holds_the_weights_of_the_hugging_face_folder(base: BaseModel, tmp_path: Path) -> None:
    from gguf import GGUFReader

    out = write_gguf(base, "F16", tmp_path / "f16.gguf")
    weights = load_file(base.hf_dir / "model.safetensors")
    found = {tensor.name: tensor.data for tensor in GGUFReader(out).tensors}
    np.testing.assert_array_equal(found["token_embd.weight"], weights["model.embed_tokens.weight"])
    np.testing.assert_array_equal(found["blk.7.ffn_down.weight"], weights["model.layers.7.mlp.down_proj.weight"])


@pytest.mark.model
def test_only_shipped_weights_are_written_as_gguf(base: BaseModel, folder: Path, tmp_path: Path) -> None:
    other = open_base(tmp_path / "models", str(folder))
    with pytest.raises(ModelError, match="no shipped GGUF"):
        write_gguf(other, "F16", tmp_path / "out.gguf")


@pytest.mark.model
def test_an_import_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistant.models.WHEEL", "no-such-wheel-anywhere")
    with pytest.raises(ModelError, match="not installed: run `make setup`"):
        open_base(tmp_path / "models", EMBEDDED)
    assert not (tmp_path / "models" / EMBEDDED).exists()
    shutil.rmtree(tmp_path / "models", ignore_errors=True)
