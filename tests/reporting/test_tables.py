"""The results table: numbers, ranks, gaps, and the exact text of its three formats."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from stored_runs import ORDER, layout, write_run

from benchmark import registry
from benchmark.cli.table import print_tables
from benchmark.errors import UserError
from benchmark.published import published
from benchmark.reporting.formats import latex_text, to_csv, to_latex, to_markdown, to_screen, write_tables
from benchmark.reporting.layouts import layouts
from benchmark.reporting.tables import build_table, build_tables
from benchmark.runs.collect import collect
from benchmark.runs.groups import choose, groups


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


def table_of(out: Path, published: bool = False, group: str | None = None, name: str = "table3"):
    runs = collect(out)
    return build_table(runs, choose(groups(out, runs), group), ORDER, layout(name, out), published)


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


def test_models_that_were_trained_on_different_tasks_are_told_apart(out):
    write_run(out, "flexcare-a", 1, ihm(0.8), multitask=True)
    table = table_of(out, name="ablation")
    assert "Not all were trained on the same tasks: FlexCare on IHM, PHE; flexcare-a on IHM." in table.notes
    assert not any("same tasks" in note for note in table_of(out).notes), "those of one task each are no matter"


MARKDOWN = """\
**SIMULATED DATA. Test results on toy 5% cohort, protocol quick: \
mean (sample standard deviation) over 3 seeds (1, 2, 3); \
25 epochs for models trained on all tasks, 40 for the others; note encoder tiny\\_bert. \
Best in bold, second best underlined. \
Ceiling: the true outcome probabilities scored on the same samples (-: none is known).**

| task   | metric   | MedFuse             | MT           | FlexCare          | ceiling   |
|--------|----------|---------------------|--------------|-------------------|-----------|
| IHM    | AUROC    | <u>.8200</u> (.020) | <u>.8200</u> | **.8700** (.020)  | .9500     |
|        | AUPRC    | **.5000** (.000)    | n.a.         | **.5000** (.000)  | .7000     |
| PHE    | maAUROC  | -                   | -            | .7000 (.000)      | -         |
|        | miAUROC  | -                   | -            | .8000 (.000)      | -         |

MT has 1 of 3 seeds on IHM.

n.a.: not defined on these test samples, where a class is absent (IHM AUPRC).

-: no finished run.

1 failed run is missing: MT, IHM, seed 2.
"""

LATEX = r"""% needs \usepackage{booktabs}
\begin{table*}[t]
\centering
\footnotesize
\setlength{\tabcolsep}{3pt}
\caption{CAPTION}
\label{tab:table3-aaaa11112222}
\begin{tabular}{llcc}
\toprule
task & metric & MedFuse & New\_Model \\
\midrule
IHM & AUROC & \underline{.8100} (.014) & \textbf{.8500} (.014) \\
 & AUPRC & \textbf{.5000} (.000) & \textbf{.5000} (.000) \\
\addlinespace
PHE & maAUROC & .7000 (.000) & - \\
 & miAUROC & .8000 (.000) & - \\
\bottomrule
\end{tabular}
\end{table*}
"""


LATEX_CAPTION = (
    r"Test results on toy 5\% cohort, protocol quick: mean (sample standard deviation) over 2 seeds (1, 2); "
    r"40 epochs; note encoder tiny\_bert. Best in bold, second best underlined. -: no finished run."
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
    assert to_latex(table) == LATEX.replace("CAPTION", LATEX_CAPTION)
    body = [line for line in to_latex(table).splitlines() if line.endswith(r"\\")]
    assert {line.count("&") - line.count(r"\&") for line in body} == {3}, "as many cells in each row as columns"
    assert "& $-$.0672 &" in to_latex(table_of(tmp_path, True)), "a minus sign, not a hyphen"


def test_csv_is_tidy_exact_and_names_simulated_data(out):
    frame = pd.read_csv(pd.io.common.StringIO(to_csv(table_of(out, published=True))))
    assert len(frame) == (3 + 3) * len(ORDER), "one line a task, metric and model, all metrics"
    cell = frame.query("task == 'ihm' and metric == 'auroc' and model == 'flexcare'").iloc[0]
    assert cell["mean"] == table_of(out).rows[0].cells["flexcare"].mean
    assert (cell["published_mean"], cell["published_std"]) == (0.8823, 0.002)
    assert cell["difference"] == pytest.approx(cell["mean"] - 0.8823)
    assert cell["seeds"] == 3
    assert frame["simulated"].all()


def test_published_figures_stand_beside_with_the_difference(out):
    text = to_markdown(table_of(out, True))
    lines = [squeezed(line) for line in text.splitlines()]
    at = next(i for i, line in enumerate(lines) if line.startswith("| IHM"))
    assert lines[at + 1] == "| | - paper | .8772 (.003) | .8726 (.002) | .8823 (.002) | |"
    assert lines[at + 2] == "| | - difference | -.0572 | -.0526 | -.0123 | |"
    assert "a difference from simulated data measures nothing" in text
    phe = next(i for i, line in enumerate(lines) if line.startswith("| PHE"))
    assert lines[phe + 1].startswith("| | - paper | | | .8393 (.005)")
    assert "Table 5" not in text


def test_the_paper_stands_beside_only_where_it_has_figures(tmp_path):
    drg = {"drg": {"macro_f1": 0.2, "micro_f1": 0.5}}
    for model in ("medfuse", "zz_new"):
        write_run(tmp_path, model, 1, drg, simulated=False)
        write_run(tmp_path, model, 1, drg, simulated=False, label_fraction=0.01, variant="w")
    text = squeezed(to_markdown(table_of(tmp_path, True, name="table5")))
    few, whole = text.index("DRG, 1% labels | maF1"), text.index("| DRG | maF1")
    assert few < text.index("| | - paper | .0054 | |") < whole < text.index("| | - paper | .2149 | |")
    assert "| | - difference | +.0633 | |" in text
    assert "The paper prints no deviations for this table." in text
    own = tmp_path / "own"
    write_run(own, "zz_new", 1, ihm(0.8))
    text = to_markdown(table_of(own, True))
    assert "- paper" not in text
    assert "The paper has no figures for these models and tasks." in text


def test_runs_give_reason_for_tables_of_their_layout(tmp_path):
    medfuse, flexcare = registry.get("medfuse"), registry.get("flexcare")
    variant = replace(flexcare, name="flexcare-x", group="ablation", variant_of="flexcare")
    simple = replace(medfuse, name="simple", group="reference")
    entries = {entry.name: entry for entry in (medfuse, flexcare, variant, simple)}
    every = layouts(entries, set(entries))

    def made(*models: str, tasks: tuple[str, ...] = ("ihm",)) -> dict[str, tuple[str, ...]]:
        out = tmp_path / "-".join([*models, *tasks])
        for model in models:
            write_run(out, model, 1, {task: {} for task in tasks})
        runs = collect(out)
        tables = build_tables(runs, groups(out, runs)[0], list(entries), every)
        return {table.name: table.columns for table in tables}

    assert made("medfuse", "flexcare") == {"table3": ("medfuse", "flexcare")}
    everything = made("medfuse", "flexcare", "flexcare-x", "simple")
    assert everything == {
        "table3": ("medfuse", "flexcare"),
        "ablation": ("flexcare", "flexcare-x"),
        "references": ("medfuse", "flexcare", "simple"),
    }
    assert made("simple", tasks=("drg",)) == {"table5": ("simple",)}
    assert set(made("flexcare", tasks=("drg", "ihm"))) == {"table3", "table5"}


def test_the_caption_names_data_rules_that_are_not_the_usual_ones(tmp_path):
    write_run(tmp_path, "mt", 1, ihm(0.8), profile="ref, death=recorded")
    caption = "on toy 5% cohort (data rules: ref, death=recorded), protocol quick"
    assert caption in table_of(tmp_path).caption


@pytest.mark.parametrize(("width", "blocks"), [(59, 1), (58, 2), (30, 4)])
def test_the_table_fits_the_terminal(out, width, blocks):
    for model in ("medfuse", "mt", "flexcare"):
        write_run(out, model, 7, {"dec": {"auroc": 0.9, "auprc": 0.1}})
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(to_screen(table_of(out), width=console.width))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in console.file.getvalue()
    heads = [line.split()[2:] for line in lines if line.split()[:2] == ["task", "metric"]]
    assert [name for head in heads for name in head] == ["MedFuse", "MT", "FlexCare", "ceiling"]
    assert len(heads) == blocks
    rows = [line.split()[2:] for line in lines if line.split()[:2] == ["IHM", "AUROC"]]
    assert [figure for row in rows for figure in row] == [".8200", "(.020)", ".8200", ".8700", "(.020)", ".9500"]


def test_notes_tell_of_mixed_devices_and_of_models_that_couple_samples(out):
    spread = {"ihm": {"auroc": {"mean": 0.8, "std": 0.001}, "auprc": {"mean": 0.5, "std": 0.9}}}
    write_run(out, "mt", 3, ihm(0.8), device="cuda", spread=spread)
    write_run(out, "mt", 4, ihm(0.8), spread={"ihm": {"auroc": {"mean": 0.8, "std": 0.002}}})
    notes = table_of(out).notes
    assert "different devices, whose numbers differ in the last digits: 8 on cpu, 1 on cuda." in " ".join(notes)
    (note,) = [note for note in notes if "predictions depend" in note]
    assert note.startswith("MT's predictions depend on how evaluation batches are composed")
    assert note.endswith("mean over seeds: IHM AUROC .0015.")


def test_broken_plan_files_are_left_out_with_a_warning(out):
    (out / "plans").mkdir()
    for name, text in (("half", '{"group": '), ("list", "[]"), ("other", '{"group": "g", "jobs": []}')):
        (out / "plans" / f"{name}.json").write_text(text)
    with pytest.warns(UserWarning) as caught:
        table = table_of(out)
    assert table.columns == ORDER
    for name in ("half", "list", "other"):
        assert any(f"{name}.json is left out" in str(warning.message) for warning in caught)


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


def test_the_caption_has_the_epochs_of_the_runs_that_are_shown(tmp_path):
    for variant, epochs, year in (("v", 5, 2030), ("w", 7, 2031)):
        write_run(tmp_path, "flexcare", 1, ihm(0.5), variant=variant, epochs=epochs, finished=f"{year}-01-01T00:00:00")
    assert "one seed (1); 7 epochs;" in table_of(tmp_path).caption


def test_runs_that_are_replaced_on_some_of_their_tasks_are_said_to_be_left_out_there_alone(tmp_path):
    write_run(tmp_path, "flexcare", 1, {**ihm(0.5), "dec": ihm(0.6)["ihm"]}, variant="v")
    write_run(tmp_path, "flexcare", 1, ihm(0.9), variant="w", finished="2031-01-01T00:00:00+00:00")
    table = table_of(tmp_path)
    assert [row.cells["flexcare"].mean for row in table.rows if row.metric == "auroc"] == [0.9, 0.6]
    assert "FlexCare: 1 runs with other settings or tasks are left out for the latest ones on IHM." in table.notes


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
    next(out.glob("runs/*/run.json")).write_text('{"format": 1, "run": "r"}')
    with pytest.raises(UserError, match=r"run\.json is damaged \('status'\).*delete its folder"):
        collect(out)


def test_files_are_written_for_every_format(out, tmp_path):
    paths = write_tables(table_of(out), tmp_path / "tables")
    assert {path.name for path in paths.values()} == {
        f"table3-quick-aaaa11112222{suffix}" for suffix in (".md", ".tex", ".csv")
    }
    assert len(list((tmp_path / "tables").iterdir())) == 3
    kept = {path: path.read_text() for path in paths.values()}
    write_tables(table_of(out), tmp_path / "tables", all_metrics=True)
    assert len(list((tmp_path / "tables").iterdir())) == 6
    assert {path: path.read_text() for path in kept} == kept, "a table of all metrics leaves the plain one alone"


def test_latex_text_leaves_no_special_character_alone():
    assert latex_text("a&b%c$d#e_f{g}h~i^j\\<>|") == (
        r"a\&b\%c\$d\#e\_f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}"
        r"\textless{}\textgreater{}\textbar{}"
    )


def test_files_are_written_although_nobody_reads_what_is_printed(out, monkeypatch):
    def closed(*_):
        raise BrokenPipeError

    monkeypatch.setattr("benchmark.cli.table.typer.echo", closed)
    with pytest.raises(BrokenPipeError):
        print_tables(Console(file=io.StringIO()), [table_of(out)], out)
    assert sorted(path.suffix for path in (out / "tables").iterdir()) == [".csv", ".md", ".tex"]


@pytest.mark.parametrize(("table", "figures"), [("table3", 84), ("table5", 28), ("table6", 24), ("table2", 7)])
def test_published_tables_are_complete(table, figures):
    frame = published(table)
    assert len(frame) == figures
    assert set(frame["table"]) == {table}
    assert not frame.duplicated([name for name in frame if name not in ("mean", "std")]).any()


def test_without_the_papers_tables_it_is_said_how_they_come_back(tmp_path: Path, monkeypatch) -> None:
    """They lie in the folder of results, which users empty."""
    with pytest.raises(UserError, match="unknown published table 'tabel3'; did you mean 'table3'"):
        published("tabel3")
    monkeypatch.setattr("benchmark.published.FOLDER", tmp_path)
    with pytest.raises(UserError, match="git checkout -- results"):
        published()
