"""What the report page says: a plain reading first, then tables, figures, analyses, cohort and settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmark.data.report.blocks import Table as CohortTable
from benchmark.data.report.content import sections
from benchmark.data.report.stored import stored_report
from benchmark.reporting.figures.ranks import draw_ranks
from benchmark.reporting.figures.style import Drawn, Facts
from benchmark.reporting.names import metric_title, number
from benchmark.reporting.page.blocks import Block, Cell, Listing, Part, Picture, Table
from benchmark.reporting.page.reading import plain_reading, ranking_of
from benchmark.reporting.sheets import Sheet
from benchmark.reporting.stored import Stored
from benchmark.reporting.tables import ResultTable, Row
from benchmark.runs.collect import read_run
from benchmark.runs.folder import runs_folder
from benchmark.runs.groups import RunGroup

_MARKS = {1: "best", 2: "second"}


def parts(
    stored: Stored,
    tables: Sequence[ResultTable],
    figures: Sequence[Drawn],
    remarks: Sequence[str],
    sheets: Sequence[Sheet],
    cohort: Path | None,
) -> list[Part]:
    """All parts of the page, in order.

    Args:
        stored: the runs. tables: results, with intervals. figures: as drawn; `remarks` name those that are left out.
        sheets: of the analyses. cohort: folder of the data set, if it is at hand.
    """
    found = [Part("Reading", plain_reading(stored, tables))]
    found += [Part(_title(table), [result_table(table), *table.notes]) for table in tables]
    if ranks := _ranks(stored, tables):
        found.append(ranks)
    if figures or remarks:
        pictures: list[Block] = [Picture(drawn.figure, drawn.caption) for drawn in figures]
        found.append(Part("Figures of the paper", [*pictures, *remarks]))
    found += _analyses(sheets, stored.group)
    if cohort is not None:
        found.append(_cohort(cohort))
    found.append(_settings(stored))
    return found


def _title(table: ResultTable) -> str:
    return table.title.rstrip(".") or "Results"


def result_table(table: ResultTable) -> Table:
    """Models as columns; cells with mean, deviation, mark and interval, and the paper's figure with the difference."""
    headers = ["task", "metric", *(table.titles[name] for name in table.columns)]
    headers += ["ceiling"] if table.has_ceiling else []
    rows = []
    for row in (row for row in table.rows if row.main):
        cells = [Cell(row.title), Cell(metric_title(row.metric)), *(_result(row, name) for name in table.columns)]
        if table.has_ceiling:
            cells.append(_number(row.ceiling))
        rows.append(cells)
    return Table(headers, rows, words=(0, 1), caption=table.caption)


def _result(row: Row, model: str) -> Cell:
    cell = row.cells[model]
    if cell is None or cell.mean is None:
        return Cell("-" if cell is None else "n.a.")
    text = number(cell.mean) + ("\N{DEGREE SIGN}" if cell.close else "")
    text += f" ({number(cell.std, 3)})" if cell.std is not None else ""
    if cell.low is not None:
        text += f"\n{number(cell.low, 3)} to {number(cell.high, 3)}"
    if cell.published_mean is not None:
        text += f"\npaper {number(cell.published_mean)}, {number(cell.difference, sign=True)}"
    return Cell(text, repr(cell.mean), _MARKS.get(cell.rank, ""))


def _number(value: float | None) -> Cell:
    return Cell("-") if value is None else Cell(number(value), repr(value))


def _ranks(stored: Stored, tables: Sequence[ResultTable]) -> Part | None:
    """Friedman, Nemenyi and the diagram of the main table."""
    main = next((table for table in tables if not table.title), None)
    found = ranking_of(main) if main else None
    if main is None or found is None:
        return None
    caption = stored.group.caption
    facts = Facts(
        caption["data"]["name"], bool(caption["data"]["simulated"]), caption["protocol"]["name"], stored.group.id
    )
    drawn = draw_ranks(found, main.titles, facts)
    return Part("Ranks over tasks (descriptive)", [Picture(drawn.figure, drawn.caption)])


def _analyses(sheets: Iterable[Sheet], group: RunGroup) -> list[Part]:
    found = []
    for sheet in sheets:
        if not len(sheet.shown) and not sheet.notes:  # for plotting only
            continue
        blocks: list[Block] = [*sheet.notes]
        if len(sheet.shown):
            rows = [
                [Cell(str(value), _key(str(value))) for value in row] for row in sheet.shown.itertuples(index=False)
            ]
            columns = zip(*rows, strict=True)
            words = [at for at, cells in enumerate(columns) if at == 0 or not any(cell.key for cell in cells)]
            blocks.insert(0, Table(list(sheet.shown.columns), rows, words, sheet.caption(group)))
        else:
            blocks.insert(0, "These runs allow none.")
        title = sheet.title.removesuffix(" on")
        found.append(Part(title, blocks))
    return found


def _key(text: str) -> str:
    """What a printed figure is sorted by; empty for words."""
    first = text.replace("\N{DEGREE SIGN}", "").replace(",", "").split(" ")[0].lstrip("<").rstrip("%")
    try:
        return repr(float(first))
    except ValueError:
        return ""


def _cohort(folder: Path) -> Part:
    report, findings = stored_report(folder)
    blocks: list[Block] = []
    for section in sections(report, findings):
        blocks.append(f"## {section.title}")
        for block in section.blocks:
            if isinstance(block, CohortTable):
                rows = [[Cell(str(cell), _key(str(cell))) for cell in row] for row in block.rows]
                blocks.append(Table(list(block.headers), rows, block.words))
            elif isinstance(block, str):
                blocks.append(block)
    return Part("Cohort", blocks)


def _settings(stored: Stored) -> Part:
    caption = stored.group.caption
    records = [read_run(runs_folder(stored.out) / run) for run in stored.runs["run"]]
    environments: dict[str, list[str]] = {}
    for record in records:
        environments.setdefault(json.dumps(record["environment"], indent=2, sort_keys=True), []).append(record["run"])
    blocks: list[Block] = [
        f"Data {caption['data']['name']}, fingerprint {caption['data']['fingerprint'][:12]}; code "
        f"{caption['code']['version'][:12]}{_commit(caption['code'])}; group {stored.group.id}; {len(records)} runs.",
        Listing("Protocol", yaml.safe_dump(_plain(caption["protocol"]), sort_keys=False)),
    ]
    blocks += [Listing(f"Environment of {len(runs)} runs", text) for text, runs in environments.items()]
    options = {record["model"]["name"]: record["job"]["options"] for record in records}
    blocks.append(Listing("Options of the models", yaml.safe_dump(_plain(options), sort_keys=False)))
    return Part("Settings and environment", blocks)


def _commit(code: Mapping[str, Any]) -> str:
    return f", commit {code['commit'][:12]}" if code.get("commit") else ""


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
