"""Reading of files: text in process, every other format by the worker of `converter.py`, which may be killed at any time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import selectors
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from assistant.documents.converter import OUT_OF_MEMORY, Request
from assistant.documents.text import Refused, Unsettled, clean, decode
from feedback.errors import DocumentError

TEXT_SUFFIXES = frozenset({".md", ".markdown", ".txt"})
SUFFIXES = TEXT_SUFFIXES | {".html", ".htm", ".pdf", ".docx", ".pptx", ".xlsx", ".csv", ".tsv"}
"""What is read, in lower case."""
_WITH_MACROS = ".docm .dotm .xlsm .xltm .xlsb .xlam .pptm .potm .ppsm .ppam .sldm"
_NOT_READ = ".doc .dot .xls .xlt .xla .xlw .ppt .pot .pps .ppsx .ppa .rtf .odt .ods .odp .pages .epub"
REFUSED_SUFFIXES = {
    **dict.fromkeys(_WITH_MACROS.split(), "may carry macros"),
    **dict.fromkeys(_NOT_READ.split(), "has a format that is not read"),
}
"""Documents that are not read, which a report names, with the reason; other files (pictures, programs) are no documents."""
_READ_AS = "save it as DOCX, XLSX, PPTX or PDF"
_BLOCK = 1 << 20
_BYTES_PER_CHAR = 4


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A file as Markdown; `pages` are the offsets in `text` of pages, slides or sheets 1, 2, ..., empty without such.

    `doubt` is a sentence about a file that may have been read wrongly, "" for one without.
    """

    text: str
    pages: tuple[int, ...] = ()
    sha256: str
    doubt: str = ""


@dataclass(frozen=True, kw_only=True)
class ReadLimits:
    """What one file may cost."""

    max_bytes: int = 100_000_000
    seconds: float = 60.0
    memory_mb: int = 1500
    max_pages: int = 5_000
    max_chars: int = 20_000_000


class Reader:
    """Reads files; its worker starts when first needed, and anew after one that was killed or died.

    Use it as a context manager. Several threads may share one: they take turns at the worker.
    """

    def __init__(self, limits: ReadLimits | None = None) -> None:
        self._limits = limits or ReadLimits()
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._worker_is_used = False
        self._spool: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the worker and remove what it left."""
        with self._lock:
            self._end_worker()
            if self._spool is not None:
                self._spool.cleanup()
                self._spool = None

    def digest(self, file: Path, *, name: str = "") -> str:
        """Return the SHA-256 of a file. Raises DocumentError, which calls it `name`, for one that is not read."""
        with _sentences(name or str(file)):
            return self._copy(file, None)

    def read(self, file: Path, *, name: str = "") -> Converted:
        """Return a file as Markdown; the suffix of `name`, where there is one, says what it is.

        Raises DocumentError, which calls the file `name`, with the reason and what to do.
        """
        with _sentences(name or str(file)):
            page = self._read(file, Path(name or file).suffix.lower())
        return replace(page, doubt=f"{name or file} {page.doubt}.") if page.doubt else page

    def _read(self, file: Path, suffix: str) -> Converted:
        if suffix not in SUFFIXES:
            raise Refused(unread_reason(suffix))
        if suffix in TEXT_SUFFIXES:
            return self._read_text(file)
        with self._lock:
            if self._spool is None:
                self._spool = tempfile.TemporaryDirectory(prefix="nightschool-", ignore_cleanup_errors=True)
            # the worker reads a copy, so that what is converted is what was hashed, whatever happens to the file meanwhile
            copy, result = Path(self._spool.name) / f"file{suffix}", Path(self._spool.name) / "result"
            try:
                with copy.open("wb") as sink:
                    digest = self._copy(file, sink)
                pages, doubt = self._convert(copy, suffix, result)
                return Converted(text=result.read_text(encoding="utf-8"), pages=pages, sha256=digest, doubt=doubt)
            finally:
                copy.unlink(missing_ok=True)
                result.unlink(missing_ok=True)

    def _read_text(self, file: Path) -> Converted:
        sink = io.BytesIO()
        limit = self._limits.max_chars
        digest = self._copy(file, sink, max_bytes=limit * _BYTES_PER_CHAR)
        decoded, doubt = decode(sink.getvalue())
        text = clean(decoded)
        if len(text) > limit:
            raise Refused(f"holds more than the {limit:,} characters that are read: split it")
        if not text.strip():
            raise Refused("holds no text")
        return Converted(text=text, sha256=digest, doubt=doubt)

    def _copy(self, file: Path, sink: BinaryIO | None, *, max_bytes: int | None = None) -> str:
        """Copy a file into `sink` and return its SHA-256. Raises Refused for what is no file, too large, or changing."""
        limit = min(self._limits.max_bytes, max_bytes or self._limits.max_bytes)
        _check_regular(file.stat())
        digest = hashlib.sha256()
        # a pipe that has taken the file's place since must not hang us
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as source:
            before = os.fstat(source.fileno())
            _check_regular(before)
            if before.st_size > limit:
                size = f"{before.st_size / 1e6:,.1f} MB, more than the {limit / 1e6:,.1f} MB"
                raise Refused(f"is {size} that are read: split it")
            copied = 0
            while block := source.read(_BLOCK):
                copied += len(block)
                if copied > before.st_size:
                    break
                digest.update(block)
                if sink is not None:
                    sink.write(block)
            after = file.stat()  # of its path: one that was deleted meanwhile can be read to its end, and must not go in
        if not copied == before.st_size == after.st_size or after.st_mtime_ns != before.st_mtime_ns:
            raise Unsettled("changed while it was read: add it again")
        return digest.hexdigest()

    def _convert(self, file: Path, suffix: str, result: Path) -> tuple[tuple[int, ...], str]:
        limits = self._limits
        request = Request(
            file=str(file),
            suffix=suffix,
            result=str(result),
            seconds=limits.seconds,
            max_pages=limits.max_pages,
            max_chars=limits.max_chars,
        )
        line = self._ask(request)
        if not line and self._worker_is_used:  # it may have died of an earlier file, or have been killed
            self._end_worker()
            line = self._ask(request)
        if not line:
            code = self._end_worker(grace=1.0)
            if code == OUT_OF_MEMORY:
                raise Refused(f"needs more than the {limits.memory_mb:,} MB of memory that a file may take: split it")
            raise Refused(f"ended its converter (exit status {code}): it is damaged, or needs too much memory")
        self._worker_is_used = True
        reply = json.loads(line)
        if "error" in reply:
            raise Refused(reply["error"])
        return tuple(reply["pages"]), reply["doubt"]

    def _ask(self, request: Request) -> bytes:
        worker = self._started_worker(Path(request.file).parent)
        try:
            return _exchange(worker, json.dumps(asdict(request)).encode() + b"\n", self._limits.seconds)
        except BaseException:  # also Ctrl-C: a worker whose answer nobody awaits must not answer the next file
            self._end_worker()
            raise

    def _started_worker(self, spool: Path) -> subprocess.Popen[bytes]:
        if self._worker is not None and self._worker.poll() is not None:
            self._end_worker()
        if self._worker is None:
            self._worker_is_used = False
            self._worker = subprocess.Popen(
                [
                    *(sys.executable, "-m", "assistant.documents.converter"),
                    *(str(os.getpid()), str(self._limits.memory_mb * 1_000_000), str(spool)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # numpy, which openpyxl imports, would reserve memory for each core
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        return self._worker

    def _end_worker(self, *, grace: float = 0.0) -> int | None:
        """Kill the worker, if there is one, and return its exit status."""
        worker, self._worker = self._worker, None
        if worker is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(grace)
        worker.kill()
        code = worker.wait()
        for pipe in (worker.stdin, worker.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        return code


@contextlib.contextmanager
def _sentences(name: str) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise DocumentError(f"{name} {error}.") from error
    except OSError as error:
        raise DocumentError(f"{name} {_os_reason(error)}.") from error


def unread_reason(suffix: str) -> str:
    """Return why a file with this suffix is not read, as what follows its name in a sentence."""
    if suffix in REFUSED_SUFFIXES:
        return f"{REFUSED_SUFFIXES[suffix]} ({suffix}): {_READ_AS}"
    return f"is no document that is read: {', '.join(sorted(SUFFIXES))} are"


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe" if stat.S_ISFIFO(status.st_mode) else "a device or socket"
    raise Refused(f"is {kind} under the name of a document: rename it")


def _os_reason(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ESTALE, errno.ENOTDIR):
        return "is not there any more: it was deleted or moved"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "cannot be read: there is no permission"
    return f"cannot be read: {error.strerror or error}"


def _exchange(worker: subprocess.Popen[bytes], request: bytes, seconds: float) -> bytes:
    """Send a request and return the answer's line, nothing when the worker dies. Raises Refused past the time."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    deadline = time.monotonic() + seconds
    try:
        worker.stdin.write(request)
        worker.stdin.flush()
    except BrokenPipeError:
        return b""
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise Refused(f"takes longer than {seconds:g} s to read: split it")
            block = os.read(worker.stdout.fileno(), 65536)
            if not block:
                return b""
            line += block
    return line
