"""The cohort report: flows add up, the paper stands beside with differences, the page stands alone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from raw_files import Hospital, subjects_in
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.data.audit import read_audit
from benchmark.data.prepare import prepare
from benchmark.data.report.comparison import comparable
from benchmark.data.report.content import sections
from benchmark.data.report.page import page
from benchmark.data.report.stored import stored_report
from benchmark.data.report.text import markdown
from benchmark.data.switches import SWITCHES

SUMMARY = "Past Medical History:\none two three\nSocial History:\n___\nBrief Hospital Course:\ncourse\nFacility:\n___\n"


def hospital() -> Hospital:
    """Seven patients: a short stay, one without events, one who dies in the unit, one without diagnoses."""
    raw = Hospital()
    for index, subject in enumerate(subjects_in("train", 7)):
        hadm = 20_000_000 + index
        died = index == 2
        raw.patient(subject)
        raw.admission(subject, hadm, death=70 if died else None, end=70 if died else 240)
        raw.stay(subject, hadm, 30_000_000 + index, length=4.5 if index == 0 else 69.0,
                 beats=() if index == 1 else (0.5, 2.0))  # fmt: skip
        if index != 3:
            raw.diagnosis(subject, hadm, "I10", 10)
        raw.add("hosp/drgcodes", subject_id=subject, hadm_id=hadm, drg_type="HCFA", drg_code="064")
        if index < 5:
            raw.note(subject, hadm, SUMMARY)
        raw.film(subject, 50_000_000 + index, f"film{index}", 20.0)
        raw.findings(subject, 50_000_000 + index, Edema=1.0 if index else -1.0)
    return raw


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    paths = hospital().write(tmp_path_factory.mktemp("raw"))
    out = tmp_path_factory.mktemp("prepared") / "data"
    prepare(**paths, out=out, name="seven <patients>")
    return out


@pytest.fixture(scope="module")
def report(folder) -> dict:
    return json.loads((folder / "cohort.json").read_text())


def test_flows_name_each_loss_and_end_at_the_samples(report):
    losses = {
        task: {step["reason"]: step["dropped"] for step in facts["flow"] if step["dropped"]}
        for task, facts in report["tasks"].items()
    }
    without = {"no event of the 17 channels in the stay": 1}
    assert losses["ihm"] == without | {"shorter than 48 hours": 1}
    assert losses["los"] == without | {"no full hour from the fifth on that comes after the first event": 1}
    assert losses["phe"] == without | {"no coded diagnosis": 1}
    assert losses["rea"] == without | {"died in the unit": 1}
    assert losses["dia"] == {"no usable finding, or no readable film": 1}
    assert losses["drg"] == {"no hospital course in a discharge summary": 2}
    for facts in report["tasks"].values():
        first, *further = facts["flow"]
        assert further[-1]["kept"] == facts["samples"] == first["kept"] - sum(step["dropped"] for step in further)
        kept = [first["kept"], *(step["kept"] for step in further)]
        assert all(a - step["dropped"] == b for a, b, step in zip(kept, kept[1:], further, strict=False))


def test_lengths_are_counted(report):
    hours = report["lengths"]["hours of ICU stays"]
    assert hours["n"] == 6 and dict(zip(hours["edges"], hours["counts"], strict=True))[48] == 5
    assert report["lengths"]["words of histories"]["mean"] == 3


def test_the_paper_stands_beside_with_differences(report):
    text = markdown(report)
    row = next(line for line in text.splitlines() if line.startswith("| IHM") and "26,318" in line)
    assert [cell.strip() for cell in row.split("|")][2:6] == ["5", "26,318", "-26,313", "-100.0"]
    row = next(line for line in text.splitlines() if line.startswith("| IHM") and "76.40" in line)
    assert [cell.strip() for cell in row.split("|")][2:11] == [
        "0.00", "0.00", "+0.00", "0.00", "76.40", "-76.40", "40.00", "7.49", "+32.51",
    ]  # fmt: skip
    assert "no target" in text and not comparable(report)


def test_a_tolerance_is_marked_on_data_of_the_paper_alone(report):
    alike = json.loads(json.dumps(report)) | {"profile": "ref"}
    alike["source"]["release"] = "2.0"
    alike["tasks"]["ihm"]["samples"] = 26_400
    alike["tasks"]["los"]["samples"] = 60_000
    rows = {
        line.split("|")[1].strip(): line
        for line in markdown(alike).splitlines()
        if "26,318" in line or "59,495" in line
    }
    assert rows["IHM"].rstrip(" |").endswith("yes") and rows["LOS"].rstrip(" |").endswith("no")


def test_rules_files_and_audit_are_in_the_report(folder, report):
    text = markdown(report, read_audit(folder))
    assert all(f"`{switch.name}`" in text for switch in SWITCHES)
    assert all(table in text for table in ("icu/chartevents", "hosp/admissions", "note/discharge"))
    assert (
        "0 found a violation" in text and "the history is read in the discharge summary of the same admission" in text
    )


def test_every_heading_names_simulated_data(report):
    for section in sections(report | {"simulated": True}):
        assert section.title.startswith("Simulated data: ")
    html = page(report | {"simulated": True})
    headings = re.findall(r"<h[12][^>]*>(.*?)</h", html)
    assert len(headings) > 8 and all(heading.startswith("Simulated data: ") for heading in headings)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert captions and all(caption.startswith("Simulated data.") for caption in captions)


class _Page(HTMLParser):
    """Collects what a page refers to, and its inner names."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.names: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.links.append(str(value))
            if name == "id":
                self.names.append(str(value))


def test_the_page_stands_alone_and_repeats(report):
    html = page(report)
    seen = _Page()
    seen.feed(html)
    assert seen.tags.count("svg") == 6 and "script" not in seen.tags
    assert all(link.startswith("#") and link[1:] in seen.names for link in seen.links)
    assert len(seen.names) == len(set(seen.names))
    assert "seven &lt;patients&gt;" in html and "<patients>" not in html
    assert page(report) == html


def test_bench_data_report_prints_and_writes(folder, tmp_path):
    shown = CliRunner().invoke(app, ["data", "report", str(folder)])
    assert shown.exit_code == 0 and shown.output.startswith("# Cohort report of seven")
    assert "## Leakage audit" in shown.output
    written = CliRunner().invoke(app, ["data", "report", str(folder), "--out", str(tmp_path / "new")])
    assert written.exit_code == 0 and sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "cohort.html",
        "cohort.md",
    ]
    assert (tmp_path / "new" / "cohort.md").read_text() == shown.output.rstrip("\n") + "\n"
    assert stored_report(folder)[1] == read_audit(folder)
