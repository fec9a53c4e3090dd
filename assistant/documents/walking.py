"""Which files do paths name? Files, folders and globs become sources, each file once, and sentences about the rest."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from assistant.documents.reading import REFUSED_SUFFIXES, SUFFIXES, unread_reason

_WILDCARD = re.compile(r"[*?\[]")
_UNSTORABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to read: `name` is its path below `root` with forward slashes; a file named by itself has no root.

    `named` is the whole path of a file named by itself, the links to its folder resolved: by it the file is known again.
    """

    file: Path
    root: Path | None
    name: str
    named: str = ""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A glob: the names that it matches below its fixed part; `sentence` says that it matches nothing, "" when it does."""

    root: Path
    matches: re.Pattern[str]
    sentence: str = ""


@dataclass(kw_only=True)
class Found:
    """What paths name: sources by path and name, the folders that were walked whole, and a sentence for each oddity.

    `patterns` are the globs, and `missing` the whole paths at which there is nothing, with the sentence of each. `blocked` are
    the names (of files, or of folders with a slash at the end) below a root that could not be looked at: that no source has
    their name does not mean that the file is gone.
    """

    sources: list[Source] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    patterns: list[Pattern] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    blocked: set[tuple[Path, str]] = field(default_factory=set)


def find_files(paths: Sequence[str | Path]) -> Found:
    """Find the documents that files, folders (with all below them) and globs (also `**`) name.

    Hidden files and folders are passed over, and files that are no documents. A link that leads out of its root is refused
    with a sentence; links within it are followed once. A "~" that no shell has expanded is the home of a user.
    """
    found = Found()
    seen: set[str] = set()
    for path in paths:
        given = expanded(path)
        mode = _mode(given)
        if stat.S_ISDIR(mode):
            root = Path(os.path.realpath(given))
            before = len(found.sources), len(found.sentences)
            _add(found, seen, _Walk(root, lambda name: True, None, found).sources())
            found.folders.append(root)
            if before == (len(found.sources), len(found.sentences)):
                found.sentences.append(f"{given} holds no documents: name a folder with {', '.join(sorted(SUFFIXES))} files.")
        elif mode:
            file = Path(os.path.realpath(given))
            _add(found, seen, iter([Source(file=file, root=None, name=given.name, named=_whole(given))]))
        elif _WILDCARD.search(str(path)):
            _add_glob(found, seen, str(given))
        else:
            shown = _UNSTORABLE.sub("?", str(given))
            sentence = f"{shown} is not there, or not to be seen: name a file, a folder or a pattern."
            found.sentences.append(sentence)
            if vanished(given):
                found.missing[_whole(given)] = sentence
    return found


def expanded(path: str | Path) -> Path:
    """Return a path with the "~" at its start replaced by the home of the user that it names; one of nobody stays."""
    with contextlib.suppress(RuntimeError, ValueError):
        return Path(path).expanduser()
    return Path(path)


def vanished(path: Path) -> bool:
    """Say whether there is nothing at a path; what is only not to be seen is there."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def _whole(path: Path) -> str:
    """Return the path of a file with the links to its folder resolved, "" for one that cannot be stored."""
    whole = str(Path(os.path.realpath(path.parent), path.name))
    return "" if _UNSTORABLE.search(whole) else whole


def _mode(path: Path) -> int:
    """Return what a path is, following links; 0 where there is nothing, or no permission to see it."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _add(found: Found, seen: set[str], sources: Iterator[Source]) -> None:
    for source in sources:
        if str(source.file) in seen:
            continue
        seen.add(str(source.file))
        if _UNSTORABLE.search(source.name):
            shown = source.name.encode("unicode_escape").decode()
            found.sentences.append(f"{shown} has a name that is not UTF-8, or has control characters in it: rename it.")
        else:
            found.sources.append(source)


def _add_glob(found: Found, seen: set[str], pattern: str) -> None:
    parts = Path(pattern).parts
    fixed = next(at for at, part in enumerate(parts) if _WILDCARD.search(part))
    root = Path(os.path.realpath(Path(*parts[:fixed])))
    before = len(found.sources), len(found.sentences)
    matches = re.compile(_glob_expression(parts[fixed:]))
    if root.is_dir():
        depth = None if "**" in parts else len(parts) - fixed
        _add(found, seen, _Walk(root, lambda name: bool(matches.fullmatch(name)), depth, found).sources())
    sentence = ""
    if before == (len(found.sources), len(found.sentences)):
        sentence = f"{pattern} matches no document: check the pattern."
        found.sentences.append(sentence)
        if vanished(Path(pattern)):  # the name of a file may look like a pattern
            found.missing[_whole(Path(pattern))] = sentence
    found.patterns.append(Pattern(root=root, matches=matches, sentence=sentence))


def _glob_expression(parts: Sequence[str]) -> str:
    """Return a glob's parts as a regular expression over names with forward slashes; `**` is any number of folders."""
    pieces = []
    for at, part in enumerate(parts):
        last = at == len(parts) - 1
        if part == "**":
            pieces.append(".*" if last else "(?:[^/]+/)*")
        else:
            pieces.append(_part_expression(part) + ("" if last else "/"))
    return "".join(pieces)


def _part_expression(part: str) -> str:
    pieces = []
    for token in re.findall(r"\[[^\]]+\]|.", part, re.DOTALL):
        if token == "*":
            pieces.append("[^/]*")
        elif token == "?":
            pieces.append("[^/]")
        elif len(token) > 1:
            pieces.append(
                "[" + ("^" if token[1] == "!" else "") + re.escape(token[1:-1].removeprefix("!")).replace(r"\-", "-") + "]"
            )
        else:
            pieces.append(re.escape(token))
    return "".join(pieces)


class _Walk:
    """One walk below a root. What is real comes first, then what links name, so that a file keeps its own name."""

    def __init__(self, root: Path, wanted: Callable[[str], bool], depth: int | None, found: Found) -> None:
        self._root, self._wanted, self._depth, self._found = root, wanted, depth, found
        self._links: list[tuple[str, str]] = []
        self._folders = {str(root)}

    def sources(self) -> Iterator[Source]:
        """Yield the sources below the root: those of the real tree by name, then those behind links."""
        yield from self._below(str(self._root), "")
        while self._links:
            path, name = self._links.pop(0)
            yield from self._behind_link(path, name)

    def _below(self, folder: str, prefix: str) -> Iterator[Source]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            self._found.sentences.append(f"{_UNSTORABLE.sub('?', folder)} cannot be opened: {error.strerror or error}.")
            self._found.blocked.add((self._root, prefix))
            return
        for entry in entries:
            name = prefix + entry.name
            if _hidden(entry.name):
                continue
            if entry.is_symlink():
                self._links.append((entry.path, name))
            elif entry.is_dir(follow_symlinks=False):
                yield from self._folder(entry.path, name)
            else:
                yield from self._file(Path(entry.path), name, regular=entry.is_file(follow_symlinks=False))

    def _folder(self, path: str, name: str) -> Iterator[Source]:
        if Path(name).suffix.lower() in SUFFIXES:
            if self._wanted(name):
                self._refuse(name, "is a folder under the name of a document: rename it")
        elif (self._depth is None or name.count("/") + 1 < self._depth) and path not in self._folders:
            self._folders.add(path)
            yield from self._below(path, f"{name}/")

    def _file(self, file: Path, name: str, *, regular: bool) -> Iterator[Source]:
        suffix = Path(name).suffix.lower()
        if not self._wanted(name) or suffix not in SUFFIXES | REFUSED_SUFFIXES.keys():
            return
        if suffix in REFUSED_SUFFIXES:
            self._refuse(name, unread_reason(suffix))
        elif not regular:
            self._refuse(name, "is a pipe, a device or a socket under the name of a document: rename it")
        else:
            yield Source(file=file, root=self._root, name=name)

    def _behind_link(self, path: str, name: str) -> Iterator[Source]:
        target = os.path.realpath(path)
        document = Path(name).suffix.lower() in SUFFIXES
        mode = _mode(Path(target))
        if not mode:
            if document and self._wanted(name):
                self._refuse(name, "is a link that leads nowhere: put the file in its place")
            return
        if not Path(target).is_relative_to(self._root):
            if stat.S_ISDIR(mode) or (document and self._wanted(name)):
                self._refuse(name, "is a link that leads out of the folder: add what it leads to by its own path")
        elif stat.S_ISDIR(mode):
            yield from self._folder(target, name)
        else:
            yield from self._file(Path(target), name, regular=stat.S_ISREG(mode))

    def _refuse(self, name: str, reason: str) -> None:
        shown = _UNSTORABLE.sub("?", name)
        self._found.sentences.append(f"{shown} {reason}.")
        self._found.blocked.add((self._root, name))


def _hidden(name: str) -> bool:
    return name.startswith((".", "~$")) or name.lower() in {"thumbs.db", "desktop.ini"}
