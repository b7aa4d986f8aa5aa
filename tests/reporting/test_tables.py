"""The results table: numbers, ranks, gaps, and the exact text of its three formats."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmark.errors import UserError
from benchmark.reporting.formats import latex_text, to_csv, to_latex, to_markdown, write_tables
from benchmark.reporting.published import published
from benchmark.reporting.tables import build_table
from benchmark.runs.collect import collect
from benchmark.runs.groups import choose, groups

ORDER = ("medfuse", "mt", "flexcare")
TITLES = {"medfuse": "MedFuse", "mt": "MT", "flexcare": "FlexCare", "zz_new": "New_Model"}


def write_run(out: Path, model: str, seed: int, metrics: dict | None, **changes) -> None:
    """A run folder with only what tables read; metrics None makes a failed one."""
    group, tasks = changes.get("group", "aaaa11112222"), changes.get("tasks", sorted(metrics or {"ihm": 0}))
    simulated, variant = changes.get("simulated", True), changes.get("variant", "v")
    run = f"{model}-{'-'.join(tasks)}-s{seed}-{variant}-{group[:4]}"
    folder = out / "runs" / (run if metrics is not None else f"{run}.failed")
    folder.mkdir(parents=True)
    record = {
        "format": 1,
        "run": run,
        "status": "failed" if metrics is None else "done",
        "model": {"name": model, "title": TITLES[model]},
        "job": {"tasks": tasks, "seed": seed},
        "variant": variant,
        "group": group,
        "data": {"name": "toy 5% cohort", "fingerprint": "f", "simulated": simulated, "samples": {}},
        "protocol": {"name": "quick"},
        "encoder": {"key": "k", "name": "tiny_bert", "width": 8},
        "code": {"version": "c" * 64, "commit": None},
        "finished": changes.get("finished", "2030-01-01T00:00:00+00:00"),
        "metrics": metrics or {},
        "info": {"ceiling": {"ihm": {"auroc": 0.95, "auprc": 0.7}} if simulated else {}},
    }
    (folder / "run.json").write_text(json.dumps(record))


def ihm(auroc: float, auprc: float | None = 0.5) -> dict:
    return {"ihm": {"auroc": auroc, "auprc": auprc, "average_precision": 0.4}}


@pytest.fixture
def out(tmp_path):
    for seed, auroc in ((1, 0.80), (2, 0.82), (3, 0.84)):
        write_run(tmp_path, "medfuse", seed, ihm(auroc))
        write_run(tmp_path, "flexcare", seed, {**ihm(auroc + 0.05), "phe": {"macro_auroc": 0.7, "micro_auroc": 0.8}})
    write_run(tmp_path, "mt", 1, ihm(0.82004, None))
    write_run(tmp_path, "mt", 2, None)
    return tmp_path


def table_of(out: Path, paper: pd.DataFrame | None = None, group: str | None = None):
    runs = collect(out)
    return build_table(runs, choose(groups(out, runs), group), ORDER, paper)


def test_means_sample_deviations_and_ranks(out):
    table = table_of(out)
    assert table.columns == ORDER
    row = table.rows[0]
    assert (row.task, row.metric, row.ceiling) == ("ihm", "auroc", 0.95)
    assert row.cells["medfuse"].mean == pytest.approx(0.82)
    assert row.cells["medfuse"].std == pytest.approx(0.02), "sample standard deviation, n - 1"
    ranks = {model: cell.rank for model, cell in row.cells.items()}
    assert ranks == {"flexcare": 1, "mt": 2, "medfuse": 2}, "what prints alike ranks alike"
    assert [row.metric for row in table.rows if row.task == "phe" and row.main] == ["macro_auroc", "micro_auroc"]


MARKDOWN = """\
**SIMULATED DATA. Test results on toy 5% cohort, protocol quick: \
mean (sample standard deviation) over 3 seeds (1, 2, 3); note encoder tiny\\_bert. \
Best in bold, second best underlined. \
Ceiling: the true outcome probabilities scored on the same samples.**

| task   | metric   | MedFuse             | MT           | FlexCare          | ceiling   |
|--------|----------|---------------------|--------------|-------------------|-----------|
| IHM    | AUROC    | <u>.8200</u> (.020) | <u>.8200</u> | **.8700** (.020)  | .9500     |
|        | AUPRC    | **.5000** (.000)    | n.a.         | **.5000** (.000)  | .7000     |
| PHE    | maAUROC  | -                   | -            | .7000 (.000)      | n.a.      |
|        | miAUROC  | -                   | -            | .8000 (.000)      | n.a.      |

MT has 1 of 3 seeds on IHM.

n.a.: not defined on these test samples, where a class is absent (IHM AUPRC).

-: no finished run.

1 failed run is missing: MT, IHM, seed 2.
"""

LATEX = r"""% needs \usepackage{booktabs}
\begin{table*}[t]
\centering
\small
\caption{CAPTION}
\label{tab:results}
\begin{tabular}{llll}
\toprule
 task   & metric   & MedFuse                       & New\_Model             \\
\midrule
 IHM    & AUROC    & \underline{.8100} (.014) & \textbf{.8500} (.014) \\
        & AUPRC    & \textbf{.5000} (.000)    & \textbf{.5000} (.000) \\
\addlinespace
 PHE    & maAUROC  & .7000 (.000)             & -                      \\
        & miAUROC  & .8000 (.000)             & -                      \\
\bottomrule
\end{tabular}
\end{table*}
"""


LATEX_CAPTION = (
    r"Test results on toy 5\% cohort, protocol quick: mean (sample standard deviation) over 2 seeds (1, 2); "
    r"note encoder tiny\_bert. Best in bold, second best underlined. -: no finished run."
)


def squeezed(text: str) -> str:
    """Without the padding of columns, whose width is tabulate's affair."""
    return "\n".join(" ".join(line.replace("-|", "|").replace("|-", "|").split()) for line in text.splitlines())


def without_rule(text: str) -> list[str]:
    return [line for line in squeezed(text).splitlines() if not set(line) <= set("|- ") or not line]


def test_markdown(out):
    assert without_rule(to_markdown(table_of(out))) == without_rule(MARKDOWN)


def test_latex(tmp_path):
    for seed, auroc in ((1, 0.80), (2, 0.82)):
        medfuse = {**ihm(auroc), "phe": {"macro_auroc": 0.7, "micro_auroc": 0.8}}
        write_run(tmp_path, "medfuse", seed, medfuse, simulated=False)
        write_run(tmp_path, "zz_new", seed, ihm(auroc + 0.04), simulated=False)
    table = table_of(tmp_path)
    assert squeezed(to_latex(table)) == squeezed(LATEX.replace("CAPTION", LATEX_CAPTION))
    body = [line for line in to_latex(table).splitlines() if line.endswith(r"\\")]
    assert {line.count("&") - line.count(r"\&") for line in body} == {3}, "as many cells in each row as columns"


def test_csv_is_tidy_exact_and_names_simulated_data(out):
    frame = pd.read_csv(pd.io.common.StringIO(to_csv(table_of(out, published()))))
    assert len(frame) == (3 + 3) * len(ORDER), "one line a task, metric and model, all metrics"
    cell = frame.query("task == 'ihm' and metric == 'auroc' and model == 'flexcare'").iloc[0]
    assert cell["mean"] == table_of(out).rows[0].cells["flexcare"].mean
    assert (cell["published_mean"], cell["published_std"]) == (0.8823, 0.002)
    assert cell["difference"] == pytest.approx(cell["mean"] - 0.8823)
    assert cell["seeds"] == 3
    assert frame["simulated"].all()


def test_published_figures_stand_beside_with_the_difference(out):
    text = to_markdown(table_of(out, published()))
    lines = [squeezed(line) for line in text.splitlines()]
    at = next(i for i, line in enumerate(lines) if line.startswith("| IHM"))
    assert lines[at + 1] == "| | - paper | .8772 (.003) | .8726 (.002) | .8823 (.002) | |"
    assert lines[at + 2] == "| | - difference | -.0572 | -.0526 | -.0123 | |"
    assert "a difference from simulated data measures nothing" in text


def test_runs_of_different_data_protocol_or_code_are_never_mixed(out):
    write_run(out, "medfuse", 1, ihm(0.1), group="bbbb33334444", finished="2031-01-01T00:00:00+00:00", simulated=False)
    newest = table_of(out)
    assert newest.rows[0].cells["medfuse"].mean == 0.1
    assert newest.columns == ("medfuse",)
    assert "SIMULATED" not in newest.caption
    assert table_of(out, group="aaaa").rows[0].cells["medfuse"].seeds == 3
    with pytest.raises(UserError, match="no group of runs starts with 'cccc'"):
        table_of(out, group="cccc")
    with pytest.raises(UserError, match="no runs yet"):
        table_of(out / "elsewhere")


def test_runs_of_one_model_with_other_settings_are_not_averaged(out):
    write_run(out, "medfuse", 9, ihm(0.9), variant="w", finished="2031-01-01T00:00:00+00:00")
    table = table_of(out)
    assert table.rows[0].cells["medfuse"].mean == 0.9
    assert "MedFuse: 3 runs with other settings or tasks are left out for the latest ones." in table.notes


def test_a_run_can_belong_to_a_later_comparison_too(out):
    later = {**json.loads(next(out.glob("runs/medfuse*/run.json")).read_text()), "group": "dddd55556666"}
    caption = {key: later[key] for key in ("group", "data", "protocol", "encoder", "code")}
    jobs = [path.name for path in out.glob("runs/medfuse*")] + ["not-run-yet"]
    (out / "plans").mkdir()
    (out / "plans" / "plan.json").write_text(json.dumps({**caption, "asked": "2032-01-01T00:00:00", "jobs": jobs}))
    table = table_of(out)
    assert table.group.id == "dddd55556666"
    assert table.columns == ("medfuse",)
    assert table.rows[0].cells["medfuse"].seeds == 3


def test_a_broken_run_file_is_named(out):
    next(out.glob("runs/*/run.json")).write_text('{"format": 1, "run"')
    with pytest.raises(UserError, match=r"cannot read .*run\.json.*delete its folder"):
        collect(out)


def test_files_are_written_for_every_format(out, tmp_path):
    paths = write_tables(table_of(out), tmp_path / "tables")
    assert {path.name for path in paths.values()} == {
        f"table3-quick-aaaa11112222{suffix}" for suffix in (".md", ".tex", ".csv")
    }
    assert len(list((tmp_path / "tables").iterdir())) == 3


def test_latex_text_leaves_no_special_character_alone():
    assert latex_text("a&b%c$d#e_f{g}h~i^j\\") == (
        r"a\&b\%c\$d\#e\_f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}"
    )


@pytest.mark.parametrize(("table", "figures"), [("table3", 84), ("table5", 28), ("table6", 24), ("table2", 7)])
def test_published_tables_are_complete(table, figures):
    frame = published(table)
    assert len(frame) == figures
    assert set(frame["table"]) == {table}
    assert not frame.duplicated([name for name in frame if name not in ("mean", "std")]).any()
