"""How a night ended, as people and programs read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from training.gate import Decision


@dataclass(frozen=True, kw_only=True)
class NightReport:
    """How a night ended."""

    run_id: str
    outcome: str
    verdict: str | None
    reason: str
    candidate: str | None = None
    examples: int = 0
    refused_examples: int = 0
    notes: tuple[str, ...] = ()  # of the trainer: what it did otherwise than it was asked
    summaries: Mapping[str, Any] = field(default_factory=dict)
    decision: Decision | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON data, the gate's inputs left out."""
        data = asdict(self)
        if data["decision"]:
            data["decision"].pop("inputs")
        return data

    def as_text(self) -> str:
        """Return the report as a few lines."""
        lines = [f"Night {self.run_id}: {self.outcome}" + (f", {self.verdict}" if self.verdict else ""), self.reason]
        if self.candidate:
            lines.append(
                f"Candidate {self.candidate}, trained on {self.examples} examples ({self.refused_examples} ratings refused)."
            )
        lines.extend(f"  {note}" for note in self.notes)
        for name, summary in self.summaries.items():
            lines.append(
                f"  {name:9} score {summary['score']:.2f}, accuracy {summary['accuracy'] or 0:.2f}, "
                f"cited {summary['cited'] or 0:.2f}"
            )
        return "\n".join(lines)
