"""From rows to CSV text and compressed files whose bytes depend on the content alone."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl

from benchmark.simulation import layout, tables
from benchmark.simulation.signals import FROM_NUMBER, TEXTS

_TIME = "%Y-%m-%d %H:%M:%S"


class GzipCsv:
    """A gzip CSV that grows chunk by chunk; no time stamp or file name in its header."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._raw = path.open("wb")
        self._file = gzip.GzipFile(filename="", mode="wb", compresslevel=4, fileobj=self._raw, mtime=0)
        self._file.write((",".join(columns) + "\n").encode())

    def write(self, text: bytes) -> None:
        """Append CSV lines."""
        self._file.write(text)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
        self._raw.close()


def rows_to_csv(table: str, rows: list[dict]) -> bytes:
    """Return CSV lines of rows by column name; what a row does not name is blank."""
    if not rows:
        return b""
    names = layout.columns(table)
    columns = {name: pl.Series(name, [row.get(name) for row in rows]) for name in names}
    return pl.DataFrame(columns).write_csv(include_header=False).encode()


def events_to_csv(table: str, columns: dict[str, np.ndarray]) -> bytes:
    """Return CSV lines of an event table from its generated columns."""
    frame = pl.DataFrame(columns).with_columns(
        charttime=pl.from_epoch("time", "s"),
        storetime=pl.from_epoch("store", "s"),
        number=pl.col("number").fill_nan(None),
    )
    shape = {layout.CHART: _chart, layout.OUTPUT: _output, layout.LABORATORY: _laboratory}[table]
    return shape(frame).select(layout.columns(table)).write_csv(include_header=False, datetime_format=_TIME).encode()


def _chart(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(value=_value(), valuenum=pl.col("number"), valueuom=_units("items"))


def _output(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(value=_number_text(), valueuom=_units("items"))


def _laboratory(frame: pl.DataFrame) -> pl.DataFrame:
    ranges = {int(row["itemid"]): (row["low"], row["high"]) for row in tables.rows("laboratory_items") if row["low"]}
    low = _lookup({item: float(low) for item, (low, _) in ranges.items()}, pl.Float64)
    high = _lookup({item: float(high) for item, (_, high) in ranges.items()}, pl.Float64)
    frame = frame.with_columns(
        ref_range_lower=low, ref_range_upper=high, hadm_id=pl.when(pl.col("hadm_id") >= 0).then("hadm_id")
    )
    outside = (pl.col("number") < pl.col("ref_range_lower")) | (pl.col("number") > pl.col("ref_range_upper"))
    nothing = pl.lit(None, dtype=pl.String)
    return frame.with_columns(
        value=_value(),
        valuenum=pl.col("number"),
        valueuom=_units("laboratory_items"),
        flag=pl.when(outside).then(pl.lit("abnormal")),
        priority=pl.lit("ROUTINE"),
        order_provider_id=nothing,
        comments=nothing,
    )


def _number_text() -> pl.Expr:
    """The number as the real tables write it: without a decimal point where there is nothing behind it."""
    number = pl.col("number")
    whole = number.round() == number
    return pl.when(whole).then(number.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(number.cast(pl.String))


def _value() -> pl.Expr:
    words = pl.col("text").replace_strict(list(range(len(TEXTS))), list(TEXTS), default=None, return_dtype=pl.String)
    return pl.when(pl.col("text") == FROM_NUMBER).then(_number_text()).otherwise(words)


def _units(table: str) -> pl.Expr:
    units = {int(row["itemid"]): row["unitname"] for row in tables.rows(table) if row["unitname"]}
    return _lookup(units, pl.String)


def _lookup(values: dict, kind: type[pl.DataType]) -> pl.Expr:
    return pl.col("itemid").replace_strict(list(values), list(values.values()), default=None, return_dtype=kind)
