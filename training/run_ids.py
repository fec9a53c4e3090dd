"""The ids of runs, "r0007", and the numbers under which the database keeps them."""

from __future__ import annotations

MAX_DIGITS = 11


def run_id(number: int) -> str:
    """Return the id of the run with this number."""
    return f"r{number:04d}"


def run_number(run_id: str) -> int | None:
    """Return the number of the run with this id, or None when it is no run's id: "r" and ASCII digits, with or without zeros."""
    digits = run_id[1:]
    if run_id[:1] != "r" or not (digits.isascii() and digits.isdigit()) or len(digits) > MAX_DIGITS:
        return None
    return int(digits)
