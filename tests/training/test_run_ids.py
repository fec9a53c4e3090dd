"""The ids of runs."""

from __future__ import annotations

import pytest

from training.run_ids import run_id, run_number


def test_an_id_names_its_number() -> None:
    assert [run_number(run_id(number)) for number in (1, 42, 12_345)] == [1, 42, 12_345]
    assert run_id(7) == "r0007"
    assert run_number("r7") == 7


@pytest.mark.parametrize("text", ["", "r", "7", "v0007", "r-1", "r\u00b2", "r\u0661", "r7 ", "r1.5", "r" + "9" * 12])
def test_what_is_no_runs_id_has_no_number(text: str) -> None:
    assert run_number(text) is None
