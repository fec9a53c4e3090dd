"""The worker that converts documents, in a process of its own with limits on time, memory and output.

`python -m assistant.documents.converter PARENT MEMORY_BYTES SPOOL` reads a JSON line for each file (`Request`) and answers
it with one: `pages`, the offsets in the text that it wrote to the request's result file, with `doubt`, or `error`; these two
are what follows the file's name in a sentence. Out of memory it ends without an answer. It needs no network; when its parent
dies it ends, and removes the parent's spool folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from assistant.documents.archive import check_pdf
from assistant.documents.text import Refused, join_pages

NICE = 10
CPU_MARGIN = 5
"""Seconds of processor time past the wall clock that the parent holds: for a parent that hangs."""
RESERVED_BYTES = 500_000_000
"""Address space that libraries and threads reserve and never fill, past the memory that a file may take."""
WATCH_SECONDS = 0.1
PARENT_GONE, OUT_OF_MEMORY = 4, 5
"""Exit codes."""
PAGED = {".pdf", ".pptx", ".xlsx"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One file to convert: where it lies, its suffix, where its text goes, and the limits."""

    file: str
    suffix: str
    result: str
    seconds: float
    max_pages: int
    max_chars: int


def convert(request: Request) -> tuple[list[int], str]:
    """Convert a file, write its text to the result file; returns the offsets of its pages, and a doubt. Raises Refused."""
    pages, doubt = _pages(request)
    if not any(page.strip() for page in pages):
        raise Refused("holds no text")
    text, starts = join_pages(pages)
    if len(text) > request.max_chars:
        raise Refused(f"holds more than the {request.max_chars:,} characters that are read: split it")
    Path(request.result).write_text(text, encoding="utf-8", newline="\n")
    return list(starts) if request.suffix in PAGED else [], doubt


def _pages(request: Request) -> tuple[list[str], str]:
    from assistant.documents import converters

    file = Path(request.file)
    match request.suffix:
        case ".pdf":
            from assistant.documents.pdf import pdf_pages

            check_pdf(file)
            return pdf_pages(file, max_pages=request.max_pages), ""
        case ".docx":
            return converters.docx_pages(file), ""
        case ".pptx":
            return converters.pptx_pages(file, max_pages=request.max_pages), ""
        case ".xlsx":
            return converters.xlsx_pages(file, max_pages=request.max_pages, max_chars=request.max_chars), ""
        case ".csv" | ".tsv":
            return converters.csv_pages(file, max_chars=request.max_chars, tabs=request.suffix == ".tsv")
        case _:
            return converters.html_pages(file)


def answer(request: Request) -> dict[str, object]:
    """Convert a file and return the line that answers it; every failure of a library becomes a sentence here."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = int(used.ru_utime + used.ru_stime + request.seconds) + CPU_MARGIN
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (cpu if hard == resource.RLIM_INFINITY else min(cpu, hard), hard))
    try:
        pages, doubt = convert(request)
        return {"pages": pages, "doubt": doubt}
    except Refused as error:
        return {"error": str(error)}
    except ModuleNotFoundError as error:
        return {"error": f"cannot be read without the library {error.name}: install it"}
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception as error:  # the libraries raise whatever they meet in a broken file
        return {"error": f"is broken, or not a {request.suffix} file ({type(error).__name__})"}


def limit(*, memory_bytes: int) -> None:
    """Limit this process's address space, take away its core dumps, and let others go first."""
    with contextlib.suppress(ValueError, OSError):  # macOS knows the limit and refuses to set it
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes + RESERVED_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICE)


def watch(*, parent: int, memory_bytes: int, spool: str) -> None:
    """End this process when its parent is gone or it holds too much memory, whatever it is doing.

    At the limit of its address space alone it would not end, but go on ever slower with what little it can still allocate.
    """

    def look() -> None:
        process = psutil.Process()
        try:
            while os.getppid() == parent and process.memory_info().rss <= memory_bytes:
                time.sleep(WATCH_SECONDS)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        if os.getppid() == parent:
            os._exit(OUT_OF_MEMORY)
        shutil.rmtree(spool, ignore_errors=True)
        os._exit(PARENT_GONE)

    threading.Thread(target=look, name="watch", daemon=True).start()


def main() -> None:
    """Answer requests until there are no more."""
    parent, memory_bytes, spool = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    watch(parent=parent, memory_bytes=memory_bytes, spool=spool)
    limit(memory_bytes=memory_bytes)
    # what a library prints must not stand among the answers
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(Request(**json.loads(line)))), file=answers, flush=True)
    shutil.rmtree(spool, ignore_errors=True)  # a parent that lives kills its worker, and keeps its spool


if __name__ == "__main__":
    main()
