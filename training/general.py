"""General rows that a night replays, so that it does not lose what the model could do before.

They were written for this project: short everyday tasks, no knowledge of the world, nothing that an examination asks.
Replaying a few old rows beside the new is the oldest remedy against forgetting (Robins 1995, doi:10.1080/09540099550039318).
"""

from __future__ import annotations

import json
from pathlib import Path

from feedback.errors import RunError
from feedback.records import Message
from training.curation import Example, unrated

FILE = Path(__file__).resolve().parent.parent / "data" / "general" / "replay.jsonl"


def general_examples(file: Path = FILE) -> list[Example]:
    """Return the general rows as a bare chat shows them: one user message, no instructions and no passages.

    `file` holds one JSON object a line: {"id", "question", "answer"}. Raises RunError when it cannot be read.
    """
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
        return [unrated(row["id"], (Message(role="user", content=row["question"]),), row["answer"], "general") for row in rows]
    except OSError as error:
        raise RunError(
            f"The general rows {file} cannot be read ({error.strerror}): install Nightschool from its repository, "
            "or set night.general_share to 0."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"The general rows {file} are not as they should be ({error!r}): restore the file.") from error
