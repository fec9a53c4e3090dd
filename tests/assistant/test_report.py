"""The report of an examination: whole, escaped, for admins alone, and a file that needs no other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from assistant.config import NightSettings
from assistant.examination import decision_of, on_common_ground, report_of
from assistant.night_report import NightReport
from assistant.services import Services
from assistant.web.admin_view import runs_html
from assistant.web.charts import Bar, bars, lines
from assistant.web.report_view import REPORT, diff, examination_page
from training.progress_lines import read_notes

EVIL = '<script>alert("x")</script>'


def answer(at: int, *, right: bool, text: str) -> dict[str, Any]:
    marks = {"right": right, "cited": right, "refused": False, "score": float(right), "words": 3}
    cites = {"citations": 1, "right_citations": int(right), "rouge_l": 0.5, "answerable": True}
    return (
        {"id": f"q{at}", "fact": f"f{at}", "question": f"Question {at} {EVIL}?", "expected": "12 days", "text": text}
        | marks
        | cites
    )


def result(version: str, *, right: int, general: float) -> dict[str, Any]:
    answers = [answer(at, right=at < right, text=f"It is {12 if at < right else 9} days {EVIL} [1]") for at in range(24)]
    absent = answer(99, right=False, text="9 days") | {"answerable": False, "expected": "", "id": "q99/hidden"}
    exchange = {"id": "q0", "fact": "f0", "question": "How many?", "expected": "12 days", "before": "It is 12 days."}
    return {
        "version": version,
        "answers": answers,
        "suites": {
            "unanswerable": [absent],
            "pushback": [{**exchange, "pushback": f"No, {EVIL}.", "text": "It is 9 days.", "kept": False}],
            "general": [{"id": f"g{at}", "topic": "language", "logprob": general, "tokens": 9} for at in range(20)],
        },
        "prompts": [{"id": "sky", "prompt": "Why is the sky blue?", "text": f"Because {version} {EVIL}"}],
        "asked": {"domain": {"asked": 24, "planned": 150}, "pushback": {"asked": 1, "planned": 25}},
        "canary": {},
        "gold": [{"id": f"q{at}", "logprob": -0.4, "tokens": 5} for at in range(right)],
    }


def a_report(*, serving: str = "v0001") -> dict[str, Any]:
    results = on_common_ground(
        {
            "base": result("base", right=4, general=-2.0),
            "serving": result(serving, right=4 if serving == "base" else 12, general=-2.0),
            "candidate": result("candidate", right=20, general=-2.1),
        }
    )
    return report_of(results, decision_of(results, NightSettings()), seed=0)


def test_what_the_trainer_did_otherwise_is_said(tmp_path: Path) -> None:
    page = examination_page(a_report(), run_id="r0001", candidate="v0002", folder=tmp_path)
    assert "Notes of the training" not in page
    (tmp_path / "result.json").write_text(json.dumps({"notes": [f"Fewer steps fitted {EVIL}."]}), "utf-8")
    page = examination_page(a_report(), run_id="r0001", candidate="v0002", folder=tmp_path)
    assert "Notes of the training" in page and "Fewer steps fitted &lt;script&gt;" in page
    report = NightReport(run_id="r1", outcome="succeeded", verdict="HOLD", reason="Equal.", notes=("Fewer steps fitted.",))
    assert "Fewer steps fitted." in report.as_text() and report.as_dict()["notes"] == ("Fewer steps fitted.",)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"notes": 7}', '{"notes": [1, null]}'])
def test_a_result_that_cannot_be_read_has_no_notes(tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content, "utf-8")
    assert read_notes(tmp_path) == [] == read_notes(tmp_path / "missing")


class Tags(HTMLParser):
    """Collects what a page opens and never closes, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name == "src" or (name == "href" and tag == "link")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_escapes_what_people_and_models_wrote() -> None:
    page = examination_page(a_report(), run_id="r0001", candidate="v0002", folder=None)
    tags = Tags(page)
    assert tags.open == [] and "script" not in page.replace("&lt;script&gt;", "").replace("&lt;/script&gt;", "")
    assert page.count("&lt;script&gt;") > 20
    for told in ("Examination of v0002", "PROMOTE", "Got better", "In service: v0001", "General prompts", "24 of 150 questions"):
        assert told in page, told


def test_the_file_needs_no_other_file_and_no_server() -> None:
    page = examination_page(a_report(), run_id="r0001", candidate="v0002", folder=None)
    tags = Tags(page)
    assert all(source.startswith("data:") for source in tags.loads) and "url(" not in page and "@import" not in page
    assert 'href="/' not in page
    assert 'href="/admin/"' in examination_page(a_report(), run_id="r0001", candidate="v0002", folder=None, links=True)


def test_every_question_stands_in_one_group_and_its_change_is_marked() -> None:
    page = examination_page(a_report(), run_id="r0001", candidate="v0002", folder=None)
    groups = dict(re.findall(r"<summary>([\w ]+) <small>\((\d+)\)</small>", page))
    assert (groups["Got better"], groups["Right in both"], groups["Still not right"]) == ("8", "12", "4")
    assert "<del>9</del> <ins>12</ins> days" in page


def test_where_the_base_serves_it_stands_once() -> None:
    page = examination_page(a_report(serving="base"), run_id="r0001", candidate="v0001", folder=None)
    assert "Base, in service" in page and "In service:" not in page


def test_the_loss_curve_is_drawn_from_the_progress_of_the_run(tmp_path: Path) -> None:
    written = [f'{{"step": {step}, "steps": 9, "loss": {3 / step}, "tokens_s": 100.0}}\n' for step in range(1, 9)]
    (tmp_path / "progress.jsonl").write_text("".join(written), encoding="utf-8")
    page = examination_page(a_report(), run_id="r0001", candidate="v0002", folder=tmp_path)
    assert "<polyline" in page and "from 3 to 0.375" in page
    assert "<polyline" not in examination_page(a_report(), run_id="r0001", candidate="v0002", folder=None)


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("It is 9 days.", "It is 12 days.", "It is <del>9</del> <ins>12</ins> days."),
        ("", "New.", "<ins>New.</ins>"),
        ("No. No. No. No. No. No.", "It is 12 <days>.", "<ins>It is 12 &lt;days&gt;.</ins>"),
        ("Old.", "", "<del>Old.</del>"),
        ("a < b", "a < b", "a &lt; b"),
    ],
)
def test_a_diff_shows_words_that_went_and_came(before: str, after: str, shown: str) -> None:
    assert diff(before, after) == shown


def test_bars_stay_within_their_track_and_say_their_figures() -> None:
    drawn = bars("Scores", [Bar(name="<Base>", css="base", mean=0.25, low=-0.1, high=1.2, items=9)])
    assert 'width="25.00%"' in drawn and 'x1="0.00%"' in drawn and 'x2="100.00%"' in drawn
    assert "&lt;Base&gt;" in drawn and "0.25" in drawn


def test_curves_need_two_points_and_leave_out_what_is_no_number() -> None:
    assert lines("Loss", {"loss": [(1, 2.0)]}, x_name="step") == ""
    drawn = lines("Loss", {"loss": [(1, 2.0), (2, float("nan")), (3, 1.0)], "other": []}, x_name="step")
    assert drawn.count("<polyline") == 1 and 'points="0.0,0.0 1000.0,500.0"' in drawn


def examined(services: Services) -> str:
    run = services.ledger.start("", "ada")
    services.examinations.save(run.id, a_report())
    return run.id


def test_only_an_admin_reads_a_report_as_a_page_and_as_a_file(
    services: Services, log_in: Callable[[str], TestClient], client: TestClient
) -> None:
    run = examined(services)
    assert client.get(f"/admin/runs/{run}/report").status_code == 401
    assert log_in("anna").get(f"/admin/runs/{run}/report").status_code == 403
    admin = log_in("ada")
    page, file = admin.get(f"/admin/runs/{run}/report"), admin.get(f"/admin/runs/{run}/report.html")
    assert page.status_code == file.status_code == 200
    assert "Save as a file" in page.text and "Save as a file" not in file.text
    assert "attachment" in file.headers["content-disposition"]
    services.ledger.folder(run).mkdir(parents=True, exist_ok=True)
    (services.ledger.folder(run) / REPORT).write_text("<p>as the night wrote it</p>", encoding="utf-8")
    assert admin.get(f"/admin/runs/{run}/report.html").text == "<p>as the night wrote it</p>"
    assert admin.get("/admin/runs/r9999/report").status_code == 404


def test_the_table_of_nights_leads_to_the_report_of_a_night_that_examined(own: Services) -> None:
    run = own.ledger.start("", "ada")
    assert "/report" not in runs_html([run])
    folder = own.ledger.folder(run.id) / "adapter"
    folder.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter.gguf"):
        (folder / name).write_text("{}", encoding="utf-8")
    own.registry.publish(folder, {}, "held", run.id)
    assert f'href="/admin/runs/{run.id}/report"' in runs_html(own.ledger.runs())


def test_perplexity_and_latency_are_of_what_every_contestant_was_asked() -> None:
    results = {name: result(name, right=20, general=-2.0) for name in ("base", "serving", "candidate")}
    for at, name in enumerate(results, start=1):
        results[name]["gold"] = [{"id": "q0", "logprob": -1.0 * at, "tokens": 4}]
        for answer_of in results[name]["answers"]:
            answer_of["seconds"] = 0.5 * at
    results["base"]["gold"].append({"id": "q1", "logprob": -9.0, "tokens": 40})
    common = on_common_ground(results)
    assert [round(common[name]["summary"]["perplexity"], 2) for name in common] == [2.72, 7.39, 20.09]
    assert [common[name]["summary"]["answer_s"] for name in common] == [0.5, 1.0, 1.5]
    page = examination_page(
        report_of(common, decision_of(common, NightSettings()), seed=0), run_id="r1", candidate="v2", folder=None
    )
    for told in ("Perplexity of the right answers", "Seconds an answer", "Value stated", "Page that answers cited"):
        assert told in page, told
