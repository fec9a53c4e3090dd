from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlite_utils import Database
from sqlite_utils.utils import sqlite3

from feedback.errors import AdapterError, CorruptAdapter, RunError, UnknownAdapter
from training.methods import FILES, Kind
from training.registry import MANIFEST, AdapterRegistry, ServingChanged
from training.runs import RunLedger

ROOT = Path(__file__).parents[2]

# publishes, and dies by kill -9 the moment that the named call is made
DYING = """
import os, signal, sys
from pathlib import Path
import training.registry as module
home, candidate, where = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

registry = module.AdapterRegistry(home / "nightschool.db", home / "adapters")
if where == "copying":
    copy = module.copy
    module.copy = lambda source, target: die() if source.name == "adapter.gguf" else copy(source, target)
elif where == "renaming":
    Path.rename = die
elif where == "naming":
    registry._connections.write = die
registry.publish(candidate, {}, "candidate", None)
"""


@pytest.fixture
def registry(tmp_path: Path) -> AdapterRegistry:
    return AdapterRegistry(tmp_path / "nightschool.db", tmp_path / "adapters")


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "r0001" / "adapter"
    folder.mkdir(parents=True)
    for name in (*FILES["lora"], "tokenizer.json", "training_args.bin"):
        (folder / name).write_bytes(name.encode() * 1000)
    return folder


def reopen(tmp_path: Path) -> AdapterRegistry:
    return AdapterRegistry(tmp_path / "nightschool.db", tmp_path / "adapters")


def visible(tmp_path: Path) -> list[str]:
    return sorted(each.name for each in (tmp_path / "adapters").iterdir() if each.name != ".publish.lock")


def publish(registry: AdapterRegistry, candidate: Path, status: str = "candidate") -> str:
    return registry.publish(candidate, {"base_hash": "abc"}, status, None)  # type: ignore[arg-type]


def test_a_published_adapter_is_exactly_its_files_with_their_hashes(
    registry: AdapterRegistry, candidate: Path, tmp_path: Path
) -> None:
    run = RunLedger(tmp_path / "nightschool.db", tmp_path / "runs").start("", "ada")
    assert registry.next_version() == "v0001"
    assert registry.publish(candidate, {"base_hash": "abc", "seed": 7}, "held", run.id) == "v0001"
    folder = registry.path("v0001")
    assert sorted(each.name for each in folder.iterdir()) == sorted([*FILES["lora"], MANIFEST])
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["base_hash"] == "abc"
    assert manifest["seed"] == 7
    assert manifest["files"] == {name: hashlib.sha256((candidate / name).read_bytes()).hexdigest() for name in FILES["lora"]}
    assert registry.verify("v0001").content == manifest == registry.show("v0001").manifest
    row = registry.show("v0001")
    assert (row.status, row.run_id, row.serving, row.promoted_at) == ("held", "r0001", False, None)
    assert RunLedger(tmp_path / "nightschool.db", tmp_path / "runs").run("r0001").candidate == "v0001"
    assert registry.next_version() == "v0002"


@pytest.mark.parametrize("kind", ["dora", "prefix", "full"])
def test_an_adapter_of_another_kind_is_published_with_the_files_of_its_kind(
    kind: Kind, registry: AdapterRegistry, tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    for name in (*FILES[kind], "README.md"):
        (folder / name).write_bytes(name.encode())
    if kind != "full":
        config = {"peft_type": "PREFIX_TUNING"} if kind == "prefix" else {"peft_type": "LORA", "use_dora": True}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    version = registry.publish(folder, {}, "candidate", None)
    assert sorted(each.name for each in registry.path(version).iterdir()) == sorted([*FILES[kind], MANIFEST])
    assert set(registry.verify(version).files) == set(FILES[kind])
    (folder / FILES[kind][1]).unlink()
    with pytest.raises(AdapterError, match=FILES[kind][1]):
        registry.publish(folder, {}, "candidate", None)


def test_publishing_serves_nothing_yet(registry: AdapterRegistry, candidate: Path) -> None:
    publish(registry, candidate, "promoted")
    assert registry.current() == "base"
    assert registry.previous() is None


@pytest.mark.parametrize("name", FILES["lora"])
def test_a_candidate_without_one_of_its_files_is_refused(
    registry: AdapterRegistry, candidate: Path, tmp_path: Path, name: str
) -> None:
    (candidate / name).unlink()
    with pytest.raises(AdapterError, match=name):
        publish(registry, candidate)
    assert registry.list() == []
    assert visible(tmp_path) == []


def test_a_candidate_of_a_run_that_does_not_exist_is_refused(registry: AdapterRegistry, candidate: Path) -> None:
    with pytest.raises(RunError, match="r0042"):
        registry.publish(candidate, {}, "candidate", "r0042")
    assert registry.list() == []


@pytest.mark.parametrize("where", ["copying", "renaming", "naming"])
def test_kill_9_in_a_publication_leaves_nothing_of_it_after_the_next_start(
    registry: AdapterRegistry, candidate: Path, tmp_path: Path, where: str
) -> None:
    publish(registry, candidate)
    registry.promote("v0001", "gate", "better", overruled=False)
    died = subprocess.run(
        [sys.executable, "-c", DYING, str(tmp_path), str(candidate), where],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert died.returncode == -9
    assert visible(tmp_path) == {"copying": [".publishing-v0002", "v0001"], "renaming": [".publishing-v0002", "v0001"]}.get(
        where, ["v0001", "v0002"]
    )
    assert [row.version for row in registry.list()] == ["v0001"], "a half-published adapter is never named"

    after = reopen(tmp_path)

    assert visible(tmp_path) == ["v0001"]
    assert after.current() == "v0001"
    after.verify("v0001")
    assert publish(after, candidate) == "v0002"
    after.verify("v0002")


def test_a_start_beside_a_running_publication_sweeps_nothing(registry: AdapterRegistry, candidate: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "adapters" / ".publishing-v0001"
    with registry._publishing(wait=True):
        temporary.mkdir()
        reopen(tmp_path)
        assert temporary.is_dir()
    reopen(tmp_path)
    assert not temporary.exists()


def test_a_folder_that_no_dead_publication_made_is_left_alone_and_its_number_is_not_used(
    registry: AdapterRegistry, candidate: Path, tmp_path: Path
) -> None:
    publish(registry, candidate)
    (tmp_path / "adapters" / "v0007").mkdir()  # as beside a database restored from an older backup
    assert publish(reopen(tmp_path), candidate) == "v0008"
    assert visible(tmp_path) == ["v0001", "v0007", "v0008"]
    with pytest.raises(UnknownAdapter):
        registry.verify("v0007")


def test_two_who_publish_at_once_get_two_versions(registry: AdapterRegistry, candidate: Path, tmp_path: Path) -> None:
    barrier = threading.Barrier(4)

    def run(each: AdapterRegistry) -> str:
        barrier.wait()
        return publish(each, candidate)

    with ThreadPoolExecutor(4) as threads:
        versions = sorted(threads.map(run, [registry, registry, reopen(tmp_path), reopen(tmp_path)]))
    assert versions == ["v0001", "v0002", "v0003", "v0004"]
    for version in versions:
        registry.verify(version)


def test_a_disk_that_is_full_is_a_sentence_and_leaves_nothing(registry: AdapterRegistry, candidate: Path, tmp_path: Path) -> None:
    import resource

    (candidate / "adapter.gguf").write_bytes(b"x" * 4_000_000)
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(AdapterError, match="cannot be written"):
            publish(registry, candidate)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert visible(tmp_path) == []
    assert publish(registry, candidate) == "v0001"


def rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


@pytest.mark.parametrize("name", [*FILES["lora"], MANIFEST])
@pytest.mark.parametrize("harm", ["one bit", "truncated", "missing"])
def test_a_harmed_file_is_named_and_cannot_be_promoted(
    registry: AdapterRegistry, candidate: Path, tmp_path: Path, name: str, harm: str
) -> None:
    publish(registry, candidate)
    registry.promote("v0001", "gate", "better", overruled=False)
    publish(registry, candidate)
    path = registry.path("v0002") / name
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        rewrite(path, content[:-1] + bytes([content[-1] ^ 1]) if harm == "one bit" else content[:100])
    with pytest.raises(CorruptAdapter, match=name):
        registry.verify("v0002")
    with pytest.raises(CorruptAdapter):
        registry.promote("v0002", "ada", "I want it", overruled=True)
    assert registry.current() == "v0001"


def test_a_manifest_that_was_rewritten_to_fit_a_harmed_file_is_noticed(registry: AdapterRegistry, candidate: Path) -> None:
    publish(registry, candidate)
    folder = registry.path("v0001")
    rewrite(folder / "adapter.gguf", b"another adapter")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["adapter.gguf"] = hashlib.sha256(b"another adapter").hexdigest()
    rewrite(folder / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True).encode())
    with pytest.raises(CorruptAdapter, match=MANIFEST):
        registry.verify("v0001")


def test_a_file_too_many_or_no_folder_is_corrupt(registry: AdapterRegistry, candidate: Path) -> None:
    publish(registry, candidate)
    stray = registry.path("v0001") / "adapter_model.bin"
    stray.write_bytes(b"a pickle")
    with pytest.raises(CorruptAdapter, match=r"adapter_model\.bin"):
        registry.verify("v0001")
    stray.unlink()
    registry.verify("v0001")
    registry.path("v0001").rename(registry.path("v0001").with_name("gone"))
    with pytest.raises(CorruptAdapter, match="folder is missing"):
        registry.verify("v0001")


@pytest.mark.parametrize("version", ["v0009", "", "base", "v1", "../v0001", "v0001/../v0001", "V0001"])
def test_an_unknown_version_is_one_sentence(registry: AdapterRegistry, candidate: Path, version: str) -> None:
    publish(registry, candidate)
    for ask in (registry.verify, registry.path, registry.show):
        with pytest.raises(UnknownAdapter, match="There is no adapter"):
            ask(version)


def test_rollback_goes_back_step_by_step_to_the_base(registry: AdapterRegistry, candidate: Path, tmp_path: Path) -> None:
    for _ in range(3):
        publish(registry, candidate)
    registry.promote("v0001", "gate", "better", overruled=False)
    registry.promote("v0002", "gate", "better still", overruled=False)
    assert (registry.current(), registry.previous()) == ("v0002", "v0001")
    assert registry.rollback("ada") == "v0001"
    registry.promote("v0003", "gate", "better", overruled=False)
    assert (registry.current(), registry.previous()) == ("v0003", "v0001")
    assert [registry.rollback("ada"), registry.rollback("ada")] == ["v0001", "base"]
    assert (registry.current(), registry.previous()) == ("base", None)
    with pytest.raises(AdapterError, match="Nothing served before"):
        registry.rollback("ada")
    assert reopen(tmp_path).current() == "base"
    assert [(each.action, each.version) for each in reversed(registry.promotions())] == [
        ("promote", "v0001"),
        ("promote", "v0002"),
        ("rollback", "v0001"),
        ("promote", "v0003"),
        ("rollback", "v0001"),
        ("rollback", "base"),
    ]


def test_a_rollback_to_a_harmed_adapter_leaves_what_serves_and_the_base_can_be_promoted(
    registry: AdapterRegistry, candidate: Path
) -> None:
    for version in ("v0001", "v0002"):
        publish(registry, candidate)
        registry.promote(version, "gate", "better", overruled=False)
    (registry.path("v0001") / "adapter.gguf").unlink()
    with pytest.raises(CorruptAdapter, match="v0001"):
        registry.rollback("ada")
    assert registry.current() == "v0002"
    registry.promote("base", "ada", "v0001 is harmed", overruled=True)
    assert (registry.current(), registry.previous()) == ("base", "v0002")


@pytest.mark.parametrize("status", ["held", "rejected"])
def test_against_the_gate_only_an_overruling_with_a_reason_promotes(
    registry: AdapterRegistry, candidate: Path, status: str
) -> None:
    publish(registry, candidate, status)
    with pytest.raises(AdapterError, match=f"{status} by the gate"):
        registry.promote("v0001", "ada", "I like it", overruled=False)
    with pytest.raises(AdapterError, match="needs a reason"):
        registry.promote("v0001", "ada", "  ", overruled=True)
    assert registry.current() == "base"
    registry.promote("v0001", "ada", "I like it", overruled=True)
    (moved,) = registry.promotions()
    assert (moved.by, moved.reason, moved.overruled) == ("ada", "I like it", True)
    row = registry.show("v0001")
    assert (row.status, row.serving, row.promoted_at) == ("promoted", True, moved.at)
    assert row.manifest["status"] == status, "what the gate said stays in the manifest"


def test_what_serves_cannot_be_promoted_again(registry: AdapterRegistry, candidate: Path) -> None:
    publish(registry, candidate)
    registry.promote("v0001", "gate", "better", overruled=False)
    with pytest.raises(AdapterError, match="serves already"):
        registry.promote("v0001", "gate", "better", overruled=False)
    assert len(registry.promotions()) == 1


def test_a_promotion_that_counts_on_what_serves_is_refused_when_somebody_moved_it(
    registry: AdapterRegistry, candidate: Path
) -> None:
    for _ in range(2):
        publish(registry, candidate)
    registry.promote("v0001", "ada", "I want it", overruled=True)
    with pytest.raises(ServingChanged, match="it was base and is v0001 now"):
        registry.promote("v0002", "night r0001", "better", overruled=False, expected="base")
    assert registry.current() == "v0001" and registry.moves() == 1
    registry.promote("v0002", "night r0001", "better", overruled=False, expected="v0001")
    assert registry.current() == "v0002"


def test_each_move_is_in_the_audit_and_none_can_be_rewritten(registry: AdapterRegistry, candidate: Path, tmp_path: Path) -> None:
    publish(registry, candidate)
    registry.promote("v0001", "gate", "better", overruled=False)
    registry.rollback("ada", "it sounds odd")
    db = Database(sqlite3.connect(str(tmp_path / "nightschool.db")))
    rows = [(row["actor"], row["action"], json.loads(row["detail"])) for row in db.query("SELECT * FROM audit ORDER BY id")]
    assert rows == [
        ("gate", "adapter.promote", {"version": "v0001", "before": "base", "reason": "better", "overruled": False}),
        ("ada", "adapter.rollback", {"version": "base", "before": "v0001", "reason": "it sounds odd", "overruled": False}),
    ]
    for sql in ("UPDATE promotions SET by = 'bob'", "DELETE FROM promotions"):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            db.conn.execute(sql)
    db.conn.close()


def test_a_reason_that_utf_8_cannot_hold_is_kept_readable_and_a_strange_folder_stands_in_nobodys_way(
    registry: AdapterRegistry, candidate: Path
) -> None:
    version = registry.publish(candidate, {}, "candidate", None)
    (registry.path(version).parent / "v\N{SUPERSCRIPT TWO}").mkdir()
    registry.promote(version, "ada", "caf\udce9", True)
    assert registry.promotions()[0].reason.startswith("caf")
    assert registry.next_version() == "v0002"
