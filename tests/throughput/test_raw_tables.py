"""Made tables look like MIMIC's to a reader: columns, widths, shares of items, one gzip member."""

from __future__ import annotations

import csv
import gzip
import zlib
from pathlib import Path

import polars as pl
import pytest

from benchmark.data.channels import items
from benchmark.data.cleaning import CHART_COLUMNS, LAB_COLUMNS, SPECIMEN_ITEM
from benchmark.data.events import extract_events
from benchmark.data.raw import RawMimic
from benchmark.throughput import raw_tables
from benchmark.throughput.raw_tables import write_raw_tables

ROWS = 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_tables, "BLOCK_ROWS", 7_000)
        written = write_raw_tables(folder, ROWS)
    assert (written["icu/chartevents"], written["hosp/labevents"]) == (ROWS, round(ROWS * 0.377))
    return folder


def test_rows_are_those_that_were_asked_for(folder):
    for table, number, width in (("icu/chartevents", ROWS, (70, 100)), ("hosp/labevents", 22_620, (95, 130))):
        text = gzip.decompress((folder / f"{table}.csv.gz").read_bytes()).decode()
        records = list(csv.reader(text.splitlines(keepends=True)))
        assert len(records) == number + 1 and {len(record) for record in records} == {len(records[0])}
        assert width[0] < len(text) / number < width[1]
        frame = pl.read_csv(text.encode(), infer_schema=False)
        assert frame.rows() == [tuple(field or None for field in record) for record in records[1:]]
        broken = any("\n" in field for record in records for field in record)
        assert '""' in text and broken == (table == "hosp/labevents")


def test_large_tables_are_one_gzip_member(folder):
    for table in ("icu/chartevents", "hosp/labevents", "icu/icustays"):
        reader = zlib.decompressobj(wbits=31)
        reader.decompress((folder / f"{table}.csv.gz").read_bytes())
        assert reader.eof and not reader.unused_data


def test_share_of_items_is_that_of_the_demo(folder):
    raw, wanted = RawMimic(folder), [item.itemid for item in items()] + [SPECIMEN_ITEM]
    for table, columns, low, high in (
        ("icu/chartevents", CHART_COLUMNS, 0.15, 0.20),
        ("hosp/labevents", LAB_COLUMNS, 0.04, 0.07),
    ):
        itemid = raw.scan(table, columns).collect()["itemid"]
        assert low < itemid.is_in(wanted).mean() < high
        assert itemid.n_unique() > 700


def test_they_can_be_read_through(folder, tmp_path):
    raw = RawMimic(folder)
    columns = ["subject_id", "hadm_id", "stay_id", "intime", "outtime"]
    stays = raw.scan("icu/icustays", columns).collect().to_pandas()
    report = extract_events(raw, stays, tmp_path / "events").report
    assert 0.12 < report["events"] / ROWS < 0.2 and report["unknown_texts"] == report["other_units"] == {}
    assert not report["dictionary"]["missing"] and report["derived_coma_totals"] > 200
    arterial = report["rows"]["Oxygen saturation"]
    assert arterial["kept"] > 1000 and arterial["not an arterial specimen"] > 0


def test_the_seed_decides(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_raw_tables(tmp_path / name, 3000, lab_rows=500, seed=seed, compress=False)
    chart = [(tmp_path / name / "icu" / "chartevents.csv").read_bytes() for name in "abc"]
    labs = [(tmp_path / name / "hosp" / "labevents.csv").read_bytes() for name in "abc"]
    assert chart[0] == chart[1] != chart[2] and labs[0] == labs[1] != labs[2]
    with pytest.raises(ValueError, match="chart_rows 0"):
        write_raw_tables(tmp_path / "d", 0)
