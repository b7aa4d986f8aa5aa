"""From raw chart and laboratory rows to trustworthy events of the 17 channels.

Works on lazy frames, so that tables of hundreds of millions of rows are filtered while they are read. Every row of a
wanted item gets a verdict; rows that are not `KEPT` are counted by channel and verdict, and left out. Units are decided
by item, never by free text.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from benchmark.data.channels import CHANNELS, EYE, INDEX, MOTOR, TOTAL, VERBAL, Item, category_scores, category_texts
from benchmark.data.rules import Rules

KEPT = "kept"
OUTSIDE = "outside the stay"
NO_VALUE = "no value"
UNKNOWN_TEXT = "unknown text"
IMPLAUSIBLE = "not a fraction or percentage"
OUTLIER = "outlier"
NOT_ARTERIAL = "not an arterial specimen"
REPEATED = "superseded by another value of the same minute"

VERDICTS = (KEPT, OUTSIDE, NO_VALUE, UNKNOWN_TEXT, IMPLAUSIBLE, OUTLIER, NOT_ARTERIAL, REPEATED)
_CODE = {verdict: code for code, verdict in enumerate(VERDICTS)}

SPECIMEN_ITEM = 52033
"""Laboratory item whose text names the kind of specimen, e.g. "ART." for arterial blood."""

HOUR = 3_600_000_000
"""Microseconds."""

CHART_COLUMNS = [
    "subject_id",
    "hadm_id",
    "stay_id",
    "itemid",
    "charttime",
    "storetime",
    "value",
    "valuenum",
    "valueuom",
]
"""Columns that `chart_rows` reads."""

LAB_COLUMNS = [
    "subject_id",
    "hadm_id",
    "specimen_id",
    "itemid",
    "charttime",
    "storetime",
    "value",
    "valuenum",
    "valueuom",
]
"""Columns that `wanted_labs` and `lab_rows` read."""

STAY_COLUMNS = ["subject_id", "hadm_id", "stay_id", "intime", "outtime"]
"""Columns of the stays that they read."""

EVENT_COLUMNS = ("stay_id", "hour", "channel", "value")

_REFILL_TEXTS = {
    "normal <3 seconds": 0,
    "normal <3 secs": 0,
    "brisk": 0,
    "abnormal >3 seconds": 1,
    "abnormal >3 secs": 1,
    "delayed": 1,
}

_NUMBER = r"(\d+(?:\.\d+)?)"
_PAIR = rf"^\s*{_NUMBER}\s*/\s*{_NUMBER}\s*$"


def item_frame(items: Iterable[Item]) -> pl.DataFrame:
    """One row an item with its channel, rule, priority and the bounds of the channel (null if categorical)."""
    names = ("outlier_low", "valid_low", "valid_high", "outlier_high")
    rows = [
        {"itemid": item.itemid, "channel": item.channel, "rule": item.rule, "priority": item.priority}
        | dict(zip(names, CHANNELS[item.channel].bounds or (None,) * 4, strict=True))
        for item in items
    ]
    numbers = {"itemid": pl.Int64, "channel": pl.Int16, "rule": pl.String, "priority": pl.Int16}
    return pl.DataFrame(rows, schema=numbers | dict.fromkeys(names, pl.Float64))


def measure(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Adds `value` in the channel's unit and the verdict on it.

    Args:
        rows: columns `itemid`, `value` (text), `valuenum`, `inside` (bool, within the stay) and `arterial` (bool or
            null), joined with `item_frame`.

    Returns:
        The same rows with `text` in place of the old `value`, numeric `value` and `verdict` (number in `VERDICTS`).
    """
    number = pl.when(pl.col("valuenum").is_finite()).then(pl.col("valuenum"))
    rows = rows.rename({"value": "text"}).with_columns(raw=number)
    rows = rows.with_columns(value=_converted())
    low, high = pl.col("value") < pl.col("outlier_low"), pl.col("value") > pl.col("outlier_high")
    blank = pl.col("text").str.strip_chars().fill_null("") == ""
    verdict = (
        pl.when(~pl.col("inside"))
        .then(_CODE[OUTSIDE])
        .when((pl.col("rule") == "arterial_percent") & ~pl.col("arterial").fill_null(False))
        .then(_CODE[NOT_ARTERIAL])
        .when(
            pl.when(pl.col("rule") == "text").then(blank).otherwise(pl.col("raw").is_null() & pl.col("value").is_null())
        )
        .then(_CODE[NO_VALUE])
        .when(pl.col("value").is_null() & (pl.col("rule") == "text"))
        .then(_CODE[UNKNOWN_TEXT])
        .when(pl.col("value").is_null())
        .then(_CODE[IMPLAUSIBLE])
        .when((low | high).fill_null(False))
        .then(_CODE[OUTLIER])
        .otherwise(_CODE[KEPT])
    )
    # Categorical channels have no bounds; null limits leave the value alone.
    return rows.with_columns(
        value=pl.col("value").clip(pl.col("valid_low"), pl.col("valid_high")), verdict=verdict.cast(pl.UInt8)
    ).drop("raw")


def _converted() -> pl.Expr:
    """`raw` in the channel's unit, by the item's rule; null where the rule finds no sensible value."""
    x, rule = pl.col("raw"), pl.col("rule")
    fraction = (
        pl.when(x.is_between(0.2, 1))
        .then(x)
        # Between 1 and 20 it is an oxygen flow in litres that was charted in the wrong place.
        .when(x.is_between(20, 100))
        .then(x / 100)
    )
    percent = pl.when((x > 0) & (x <= 1)).then(x * 100).when(x != 0).then(x)
    celsius = pl.when(x >= 79).then((x - 32) * 5 / 9).otherwise(x)
    text = pl.col("text")
    return (
        pl.when(rule == "text")
        .then(_category())
        .when(rule == "fraction")
        .then(fraction)
        .when(rule.is_in(["percent", "arterial_percent"]))
        .then(percent)
        .when(rule == "fahrenheit")
        .then((x - 32) * 5 / 9)
        .when(rule == "celsius")
        .then(celsius)
        .when(rule == "inch")
        .then(x * 2.54)
        .when(rule == "pound")
        .then(x * 0.453592)
        .when(rule == "first_of_pair")
        .then(pl.coalesce(x, text.str.extract(_PAIR, 1).cast(pl.Float64, strict=False)))
        .when(rule == "second_of_pair")
        .then(pl.coalesce(x, text.str.extract(_PAIR, 2).cast(pl.Float64, strict=False)))
        .otherwise(x)
    )


def _category() -> pl.Expr:
    """Category number of the text; null for other texts and for channels without categories."""
    text = pl.col("text").str.strip_chars().str.to_lowercase()
    result: pl.Expr = pl.lit(None, dtype=pl.Float64)
    for index, channel in enumerate(CHANNELS):
        if not channel.continuous and channel.name != TOTAL:
            accepted = _REFILL_TEXTS if channel.name == "Capillary refill rate" else category_texts(index)
            number = text.replace_strict(
                list(accepted), [float(code) for code in accepted.values()], default=None, return_dtype=pl.Float64
            )
            result = pl.when(pl.col("channel") == index).then(number).otherwise(result)
    return result


def chart_rows(chart: pl.LazyFrame, stays: pl.LazyFrame, items: pl.DataFrame, rules: Rules = Rules()) -> pl.LazyFrame:
    """Judged rows of chart events: those with a stay's own number.

    Args:
        chart: `stay_id, itemid, charttime, storetime, value, valuenum`. stays: `stay_id, intime, outtime`.
        items: `item_frame` of the chart items.
    """
    rows = (
        chart.filter(pl.col("itemid").is_in(items["itemid"].to_list()))
        .join(stays.select("stay_id", "intime", "outtime"), on="stay_id")
        .join(items.lazy(), on="itemid")
        .with_columns(_inside(), arterial=pl.lit(None, dtype=pl.Boolean))
    )
    return _judged(rows)


def wanted_labs(labs: pl.LazyFrame, stays: pl.LazyFrame, items: pl.DataFrame, rules: Rules = Rules()) -> pl.LazyFrame:
    """Laboratory rows of the patients' items and specimen kinds; small enough to be collected.

    Args:
        labs: `subject_id, specimen_id, itemid, charttime, storetime, value, valuenum`. stays: `subject_id`.
    """
    return labs.filter(pl.col("itemid").is_in([*items["itemid"].to_list(), SPECIMEN_ITEM])).join(
        stays.select("subject_id").unique(), on="subject_id", how="semi"
    )


def lab_rows(labs: pl.LazyFrame, stays: pl.LazyFrame, items: pl.DataFrame, rules: Rules = Rules()) -> pl.LazyFrame:
    """Judged rows of `wanted_labs` that fall into a stay of the same patient, with or without an admission number.

    Args:
        stays: `subject_id, stay_id, intime, outtime`.
    """
    kind = pl.col("value").str.strip_chars().str.to_uppercase()
    arterial = (
        labs.filter((pl.col("itemid") == SPECIMEN_ITEM) & pl.col("specimen_id").is_not_null())
        .group_by("specimen_id")
        .agg(arterial=kind.str.starts_with("ART").fill_null(False).all())
    )
    rows = (
        labs.join(items.lazy(), on="itemid")
        .join(arterial, on="specimen_id", how="left")
        .join(stays.select("subject_id", "stay_id", "intime", "outtime"), on="subject_id")
        .with_columns(_inside())
        .filter("inside")
    )
    return _judged(rows)


def _inside() -> pl.Expr:
    return pl.col("charttime").is_between(pl.col("intime"), pl.col("outtime")).fill_null(False).alias("inside")


def _judged(rows: pl.LazyFrame) -> pl.LazyFrame:
    hour = (pl.col("charttime") - pl.col("intime")).dt.total_microseconds() / HOUR
    stored = pl.col("storetime").dt.epoch("us")
    return (
        measure(rows)
        .with_columns(hour=hour, stored=stored)
        .select("stay_id", "hour", "channel", "value", "verdict", "stored", "priority", pl.col("itemid").cast(pl.Int32))
    )


def one_per_minute(rows: pl.DataFrame, rules: Rules = Rules()) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Keeps one value of each stay, time and channel: the one stored last, then by item priority, then lowest item.

    A missing store time counts as earliest. The last tie, equal rows but for the value, goes to the lower value, so
    that the order of rows in the file never matters.

    Returns:
        Kept events (`EVENT_COLUMNS`, sorted) and the number of superseded rows by channel (`channel, rows`).
    """
    keys = ["stay_id", "hour", "channel"]
    ordered = rows.sort(
        [*keys, "stored", "priority", "itemid", "value"],
        descending=[False, False, False, True, False, False, False],
        nulls_last=True,
    )
    first = pl.any_horizontal(pl.col(key) != pl.col(key).shift(1) for key in keys).fill_null(True)
    ordered = ordered.with_columns(first=first)
    repeated = ordered.filter(~pl.col("first")).group_by("channel").agg(rows=pl.len())
    return ordered.filter("first").select(EVENT_COLUMNS), repeated


def coma_totals(events: pl.DataFrame, rules: Rules = Rules()) -> pl.DataFrame:
    """Total coma score wherever eye, motor and verbal response were charted at the same time, as further events."""
    parts = [INDEX[EYE], INDEX[MOTOR], INDEX[VERBAL]]
    score = pl.lit(None, dtype=pl.Float64)
    for part in parts:
        scores = category_scores(part)
        number = pl.col("value").replace_strict(
            [float(code) for code in range(len(scores))], [float(s) for s in scores], default=None
        )
        score = pl.when(pl.col("channel") == part).then(number).otherwise(score)
    texts = category_texts(INDEX[TOTAL])
    category = pl.col("total").cast(pl.Int64).cast(pl.String).replace_strict(texts, return_dtype=pl.Float64)
    return (
        events.filter(pl.col("channel").is_in(parts))
        .with_columns(score=score)
        .group_by("stay_id", "hour")
        .agg(total=pl.col("score").sum(), parts=pl.len())
        .filter(pl.col("parts") == len(parts))
        .select("stay_id", "hour", channel=pl.lit(INDEX[TOTAL], dtype=pl.Int16), value=category)
    )
