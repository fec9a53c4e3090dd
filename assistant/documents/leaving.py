"""Which documents leave? Those whose files are gone from a folder, a pattern or a path that is named again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.documents.walking import Found, vanished

if TYPE_CHECKING:
    from assistant.documents.store import Known


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """The names of the documents that leave, and a sentence for each folder whose documents are kept although they are gone.

    `settled` are the sentences of `Found` that are no complaint any more: what is not there was a document, and leaves.
    """

    names: list[str]
    kept: list[str]
    settled: set[str]


def leaving(found: Found, known: Mapping[str, Known], taken: Collection[str], *, prefix: str) -> Leaving:
    """Find the documents, of those `known` and not `taken` in now, whose files are gone from what was named.

    Of a folder that was walked whole, those without a source leave; of a pattern, those that it matches and whose files are
    not on the disk; and the one whose path was named. What a folder held that is altogether empty now is kept.
    """
    settled = {
        name: sentence
        for name, document in known.items()
        if name not in taken and (sentence := _settled(found, known, name, document, prefix)) is not None
    }
    folders = {name: known[name].root or str(Path(known[name].file).parent) for name in settled}
    kept = Counter(folder for folder in folders.values() if _is_empty(folder))
    names = [name for name, folder in folders.items() if folder not in kept]
    return Leaving(
        names=names,
        kept=[_kept(folder, count) for folder, count in kept.items()],
        settled={settled[name] for name in names},
    )


def _settled(found: Found, known: Mapping[str, Known], name: str, document: Known, prefix: str) -> str | None:
    """Return None for a document that is not gone, else the sentence that its leaving settles, "" where there is none."""
    if not document.root:
        return found.missing.get(document.file) if document.file else None
    if not name.startswith(prefix):
        return None
    root, below = Path(document.root), name.removeprefix(prefix)
    if root in found.folders:
        return None if _is_blocked(found, root, below) else ""
    for pattern in found.patterns:
        if pattern.root == root and pattern.matches.fullmatch(below) and _left(root, name, below, known):
            return pattern.sentence
    return found.missing.get(str(root / below))


def _is_blocked(found: Found, folder: Path, below: str) -> bool:
    return any(
        blocked_root == folder and (below == blocked or ((blocked.endswith("/") or not blocked) and below.startswith(blocked)))
        for blocked_root, blocked in found.blocked
    )


def _left(root: Path, name: str, below: str, known: Mapping[str, Known]) -> bool:
    """Say whether the file of a document left its folder, whatever `--under` put before its name when it was added.

    A file that is a document by another name is not the one that is looked for.
    """
    parts = name.split("/")
    rests = ("/".join(parts[at:]) for at in range(1, len(parts)))
    others = [rest for rest in rests if rest not in known or known[rest].root != str(root)]
    return all(vanished(root / each) for each in (below, name, *others))


def _is_empty(folder: str) -> bool:
    try:
        return not any(Path(folder).iterdir())
    except OSError:  # it went away since
        return True


def _kept(folder: str, count: int) -> str:
    held = "document that it held is" if count == 1 else f"{count} documents that it held are"
    return (
        f"{folder} is empty now, as the folder of a disk that is not there would be: the {held} kept; "
        "`nightschool documents remove` removes them."
    )
