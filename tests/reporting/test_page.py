"""The report page: what it says, that it loads nothing, and that it works in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from stored_runs import ORDER, layout, write_run

from benchmark.evaluation.comparison import ranking
from benchmark.evaluation.metrics import compute
from benchmark.reporting.figures.ranks import draw_ranks
from benchmark.reporting.figures.style import Facts
from benchmark.reporting.page.blocks import Cell, Listing, Part, Picture, Table
from benchmark.reporting.page.content import result_table
from benchmark.reporting.page.reading import plain_reading, ranking_of
from benchmark.reporting.page.render import render
from benchmark.reporting.resamples import resamples_of
from benchmark.reporting.stored import Stored
from benchmark.reporting.tables import build_table
from benchmark.tasks import TASKS

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
N = 200


@pytest.fixture
def stored(tmp_path):
    """Two equally strong models and a worthless one."""
    y = (np.arange(N) % 3 == 0).astype(np.float32)
    for number, (model, strength) in enumerate({"medfuse": 0.0, "mt": 2.5, "flexcare": 2.5}.items()):
        for seed in (1, 2, 3):
            noise = np.random.default_rng([number, seed]).normal(size=N)
            p = 1 / (1 + np.exp(-strength * y - noise - np.random.default_rng(1).normal(size=N)))
            known = np.ones((N, 1), bool)
            metrics = compute(TASKS["ihm"].metrics, "binary", ("x",), y[:, None], known, p[:, None])
            write_run(tmp_path, model, seed, {"ihm": metrics}, tasks=["ihm"])
            frame = pd.DataFrame({"task": "ihm", "sample": [f"s{i:04}" for i in range(N)], "patient": range(N)})
            frame["patient"] = frame["patient"].map("p{:04}".format)
            frame[["present_ehr", "present_cxr", "present_note"]] = True
            frame["y"], frame["p"] = [[v] for v in y], [[v] for v in p.astype(np.float32)]
            frame.to_parquet(tmp_path / "runs" / f"{model}-ihm-s{seed}-v-aaaa" / "predictions.parquet")
    return Stored.open(tmp_path, ORDER)


def table_of(stored):
    resamples = resamples_of(stored.out, stored.runs, stored.group, 200)
    resamples.compute()
    return build_table(stored.runs, stored.group, ORDER, layout("table3", stored.out), resamples=resamples)


def test_the_reading_tells_what_can_be_told_apart(stored):
    said = plain_reading(stored, [table_of(stored)])
    assert said[0].startswith("3 models (MedFuse, MT, FlexCare) on 1 task, 3 training runs each (seeds 1, 2, 3).")
    assert "simulated" in said[0]
    auroc = next(sentence for sentence in said if sentence.startswith("- IHM AUROC"))
    assert re.search(r"(MT|FlexCare) has the highest mean, \.\d{4} of \.9500 that", auroc)
    assert re.search(r"(MT|FlexCare) cannot be told apart from it, 1 is behind", auroc)
    assert said[-1].startswith("Not shown: which model is best beyond these patients")


def test_a_model_that_shares_no_seed_with_the_best_is_not_said_to_be_behind_it(stored):
    for seed in (1, 2, 3):
        file = stored.out / "runs" / f"medfuse-ihm-s{seed}-v-aaaa" / "run.json"
        file.write_text(file.read_text().replace(f'"seed": {seed}', f'"seed": {seed + 10}'))
    table = table_of(Stored.open(stored.out, ORDER))
    auroc = next(sentence for sentence in plain_reading(stored, [table]) if sentence.startswith("- IHM AUROC"))
    assert "MedFuse is not tested against it" in auroc and "behind" not in auroc
    assert any(note.endswith("no spread of resamples): MedFuse on IHM AUROC, IHM AUPRC.") for note in table.notes)


def test_the_reading_does_not_count_runs_that_a_model_lacks(stored):
    shutil.rmtree(stored.out / "runs" / "mt-ihm-s3-v-aaaa")
    fewer = Stored.open(stored.out, ORDER)
    assert "1 task, up to 3 training runs each (seeds 1, 2, 3)." in plain_reading(fewer, [table_of(fewer)])[0]


def test_a_task_with_few_labels_is_no_further_task_of_the_ranking(tmp_path):
    for number, model in enumerate(ORDER):
        for share, tasks in ((1.0, ("ihm", "dec")), (0.1, ("ihm",))):
            metrics = {task: {name: 0.5 + number / 10 for name in TASKS[task].metrics} for task in tasks}
            write_run(tmp_path, model, 1, metrics, variant=f"v{share}", label_fraction=share)
    stored = Stored.open(tmp_path, ORDER)
    table = build_table(stored.runs, stored.group, ORDER, layout("table3", tmp_path))
    assert len([row for row in table.rows if row.metric == "auroc"]) == 3
    assert ranking_of(table).tasks == 2


def page(stored) -> str:
    ranks = ranking({"a": [3, 3, 2], "b": [2, 2, 3], "c": [1, 1, 1]})
    facts = Facts("toy", True, "quick", "g")
    drawn = draw_ranks(ranks, {name: name.upper() for name in "abc"}, facts)
    words = Table(["name", "figure"], [[Cell("x", ""), Cell(".5", "0.5")], [Cell(""), Cell(".9", "0.9")]], words=(0,))
    blocks = [result_table(table_of(stored)), "- with <b> & `code`", words, Picture(drawn.figure, drawn.caption)]
    return render("Toy", True, [Part("Results", [*blocks, Listing("Protocol", "name: <quick>")])])


def test_the_page_loads_nothing_and_names_simulated_data(stored):
    text = page(stored)
    assert not re.findall(
        r"""(?:src|href)=["'](?!#|data:)[^"']+""", re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    )
    assert "url(http" not in text and "@import" not in text
    assert text.index("Simulated data.") < text.index("<nav>")
    assert "with &lt;b&gt; &amp; <code>code</code>" in text and "name: &lt;quick&gt;" in text
    assert text.count('class="best"') == 2 and "\N{DEGREE SIGN}" in text


DRIVE = """<script>
window.addEventListener("load", () => {
  const table = document.querySelectorAll("table.sortable")[1], heads = table.tHead.rows[0].cells;
  const column = number => [...table.tBodies[0].rows].map(row => row.cells[number].textContent.trim()).join("|");
  const said = [column(1)];
  heads[1].querySelector("button").click(); said.push(column(1), column(0), heads[1].getAttribute("aria-sort"));
  heads[1].querySelector("button").click(); said.push(column(1));
  const faulty = performance.getEntriesByType("resource").map(entry => entry.name).join(" ");
  const drawn = [...document.querySelectorAll("svg")].every(svg => svg.getBoundingClientRect().width > 100);
  const wide = document.documentElement.scrollWidth <= window.innerWidth;
  document.body.innerHTML = `<output>${said.join(";")};${faulty};${drawn};${wide}</output>`;
});
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_sorts_the_tables_and_loads_nothing(stored, tmp_path, width):
    file = tmp_path / "page.html"
    file.write_text(page(stored).replace("</body>", f"{DRIVE}</body>"), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},900", "--virtual-time-budget=5000", "--dump-dom", file.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    said = re.search(r"<output>(.*?)</output>", shown)[1].split(";")
    assert said == [".5|.9", ".9|.5", "x|x", "descending", ".5|.9", "", "true", "true"]
