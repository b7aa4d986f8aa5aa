"""From raw chart and laboratory rows to trustworthy events of the 17 channels.

Works on lazy frames, so that tables of hundreds of millions of rows are filtered while they are read. Every row of a
wanted item that belongs to a stay gets a verdict; rows that are not `KEPT` are counted (`tally.Tally`) and left out.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from benchmark.data.channels import CONVERSIONS, EYE, INDEX, MOTOR, TOTAL, VERBAL, Item, category_scores, category_texts
from benchmark.data.measures import CODE, EARLY, KEPT, NO_TIME, OUTSIDE, measure
from benchmark.data.rules import Rules

SPECIMEN_ITEM = 52033
"""Laboratory item whose text names the kind of specimen, e.g. "ART." for arterial blood."""

HOUR = 3_600_000_000
"""Microseconds."""

BODY_SIZE = (INDEX["Height"], INDEX["Weight"])
LOOK_BACK = 24
"""Hours before ICU admission in which height and weight may count."""

STAY_COLUMNS = ("subject_id", "hadm_id", "stay_id", "intime", "outtime")
"""Columns of the stays, all of the cohort, that `chart_rows` and `lab_rows` read."""

CHART_COLUMNS = (
    "subject_id",
    "hadm_id",
    "stay_id",
    "itemid",
    "charttime",
    "storetime",
    "value",
    "valuenum",
    "valueuom",
)
"""Columns of the chart events that `chart_rows` reads."""

LAB_COLUMNS = (
    "subject_id",
    "hadm_id",
    "specimen_id",
    "itemid",
    "charttime",
    "storetime",
    "value",
    "valuenum",
    "valueuom",
)
"""Columns of the laboratory events that `wanted_labs` and `lab_rows` read."""

EVENT_COLUMNS = ("stay_id", "hour", "channel", "value")


def item_frame(items: Iterable[Item]) -> pl.DataFrame:
    """One row an item: channel, conversion, priority, units and bounds (null: no limit)."""
    limits = ("outlier_low", "valid_low", "valid_high", "outlier_high")
    rows = [
        {
            "itemid": item.itemid,
            "channel": item.channel,
            "rule": item.rule,
            "priority": item.priority,
            "usual_unit": item.units[0] if item.units else "",
            "units": f"|{'|'.join(item.units)}|".lower(),
        }
        | dict(zip(limits, item.bounds, strict=True))
        for item in items
    ]
    schema = {
        "itemid": pl.Int64(),
        "channel": pl.Int16(),
        "rule": pl.Enum(CONVERSIONS),
        "priority": pl.Int16(),
        "usual_unit": pl.String(),
        "units": pl.String(),
    }
    return pl.DataFrame(rows, schema=schema | dict.fromkeys(limits, pl.Float64()))


def wanted_chart(
    chart: pl.LazyFrame, stays: pl.LazyFrame | pl.DataFrame, items: pl.DataFrame, rules: Rules = Rules()
) -> pl.LazyFrame:
    """Chart rows of the items that name a stay, with the stay as column `own`.

    Rows of other stays than the given ones are among them. With `events=published` a row without the number of a stay
    names that of its admission.

    Args:
        chart: `CHART_COLUMNS`. stays: `STAY_COLUMNS`. items: `item_frame` of the chart items.
    """
    rows = chart.filter(pl.col("itemid").is_in(items["itemid"].to_list()))
    if rules.events == "inside_stay":
        return rows.with_columns(own=pl.col("stay_id"))
    rows = rows.join(_owners(stays.lazy()), on=["subject_id", "hadm_id"], how="left")
    return rows.with_columns(own=pl.coalesce("stay_id", "owner")).drop("owner")


def chart_rows(
    chart: pl.LazyFrame, stays: pl.LazyFrame | pl.DataFrame, items: pl.DataFrame, rules: Rules = Rules()
) -> pl.LazyFrame:
    """Judged rows of the chart events that belong to the stays.

    Args:
        chart: `CHART_COLUMNS`. stays: `STAY_COLUMNS` of at least all stays of the patients whose rows are wanted.
        items: `item_frame` of the chart items of `channels.items(rules)`.

    Returns:
        Columns stay_id, hour (float64, since ICU admission), channel, value, verdict, stored (microseconds, may be
        null), priority, itemid, text and unit (both mostly null, see `measure`). The hour is negative where the verdict
        is `OUTSIDE` or `EARLY`, and with `body_size=day_before` in kept rows of height and weight, which
        `one_per_minute` moves to hour 0.
    """
    stays = stays.lazy()
    rows = chart.filter(pl.col("itemid").is_in(items["itemid"].to_list())).rename({"charttime": "time"})
    if rules.events == "published":
        rows = (
            rows.join(_owners(stays), on=["subject_id", "hadm_id"], how="left")
            .with_columns(own=pl.coalesce("stay_id", "owner"))
            .with_columns(belongs=(pl.col("own") == pl.col("owner")).fill_null(False))
            .drop("stay_id", "owner")
            .join(_homes(stays), left_on="own", right_on="owner")
            .filter((pl.col("stay_id") == pl.col("own")) | (pl.col("belongs") & _within()))
            .with_columns(inside=pl.col("belongs") & _after_admission(), early=pl.col("belongs") & ~_after_admission())
        )
    else:
        rows = (
            rows.join(stays.select("stay_id", "intime", "outtime", patient="subject_id"), on="stay_id")
            .with_columns(own=pl.col("stay_id"), belongs=(pl.col("patient") == pl.col("subject_id")).fill_null(False))
            .with_columns(inside=pl.col("belongs") & _within(), early=pl.lit(False))
        )
    rows = rows.join(items.lazy(), on="itemid").with_columns(arterial=pl.lit(None, dtype=pl.Boolean))
    if rules.body_size == "day_before":
        own = pl.col("belongs") & (pl.col("stay_id") == pl.col("own"))
        before = pl.col("intime") - pl.col("time")
        recent = (before > pl.duration()) & (before <= pl.duration(hours=LOOK_BACK))
        taken = (own & recent & pl.col("channel").is_in(BODY_SIZE)).fill_null(False)
        rows = rows.with_columns(inside=pl.col("inside") | taken, early=pl.col("early") & ~taken)
    return _judged(rows, rules)


def wanted_labs(
    labs: pl.LazyFrame, patients: pl.LazyFrame | pl.DataFrame, items: pl.DataFrame, rules: Rules = Rules()
) -> pl.LazyFrame:
    """Laboratory rows of the patients' items and specimen kinds.

    All rows of a patient have to reach `lab_rows` together, since one names the kind of specimen of others; those of
    different patients need not.

    Args:
        labs: `LAB_COLUMNS`. patients: `subject_id`, each once, and columns that the rows shall get.
        items: `item_frame` of the laboratory items.
    """
    wanted = items["itemid"].to_list()
    if rules.saturation == "arterial":
        wanted = [*wanted, SPECIMEN_ITEM]
    # The patients are distinct beforehand: where the query has to find that out, polars reads and holds all rows of the
    # table meanwhile. Where the order of the rows is kept, they pass by the patients and never the other way round.
    return labs.filter(pl.col("itemid").is_in(wanted)).join(patients.lazy(), on="subject_id", maintain_order="left")


def lab_rows(
    labs: pl.LazyFrame, stays: pl.LazyFrame | pl.DataFrame, items: pl.DataFrame, rules: Rules = Rules()
) -> pl.LazyFrame:
    """Judged rows of `wanted_labs` that belong to the stays; columns as those of `chart_rows`.

    Args:
        stays: `STAY_COLUMNS` of at least the patients of `labs`.
    """
    stays = stays.lazy()
    time = pl.col("charttime")
    if rules.lab_time == "stored":
        # Some results are stamped before the blood was drawn.
        time = pl.when(pl.col("storetime").is_not_null()).then(pl.max_horizontal("charttime", "storetime"))
    rows = labs.join(items.lazy(), on="itemid").with_columns(time=time)
    if rules.saturation == "arterial":
        rows = rows.join(_arterial(labs), on=["subject_id", "specimen_id"], how="left")
    else:
        rows = rows.with_columns(arterial=pl.lit(None, dtype=pl.Boolean))
    # Rows that were drawn in a stay and never stored are counted.
    untimed = pl.col("time").is_null() & _within("charttime")
    if rules.events == "published":
        rows = (
            rows.join(_owners(stays), on=["subject_id", "hadm_id"])
            .join(_homes(stays), on="owner")
            .filter((pl.col("stay_id") == pl.col("owner")) | _within() | untimed)
            .with_columns(inside=_after_admission(), early=~_after_admission())
        )
    else:
        # Those that name no time at all are too, once, at the patient's first stay.
        first = pl.col("stay_id") == pl.col("stay_id").min().over("subject_id")
        own = stays.select("subject_id", "stay_id", "intime", "outtime", first=first)
        untimed = untimed | (pl.col("time").is_null() & pl.col("charttime").is_null() & pl.col("first"))
        rows = (
            rows.join(own, on="subject_id")
            .with_columns(inside=_within(), early=pl.lit(False))
            .filter(pl.col("inside") | untimed)
        )
    return _judged(rows, rules)


def _arterial(labs: pl.LazyFrame) -> pl.LazyFrame:
    """Whether a patient's specimen is named arterial, for those that are named at all."""
    kind = pl.col("value").str.strip_chars().str.to_uppercase()
    return (
        labs.filter((pl.col("itemid") == SPECIMEN_ITEM) & pl.col("specimen_id").is_not_null())
        .group_by("subject_id", "specimen_id")
        .agg(arterial=kind.str.starts_with("ART").fill_null(False).all())
    )


def _owners(stays: pl.LazyFrame) -> pl.LazyFrame:
    """The stay (`owner`) of each admission."""
    return stays.select("subject_id", "hadm_id", owner="stay_id")


def _homes(stays: pl.LazyFrame) -> pl.LazyFrame:
    """For each stay (`owner`) all stays of its patient: rows of one can lie within another."""
    return stays.select("subject_id", owner="stay_id").join(
        stays.select("subject_id", "stay_id", "intime", "outtime"), on="subject_id"
    ).drop("subject_id")  # fmt: skip


def _within(time: str = "time") -> pl.Expr:
    return pl.col(time).is_between(pl.col("intime"), pl.col("outtime")).fill_null(False)


def _after_admission() -> pl.Expr:
    return (pl.col("time") >= pl.col("intime")).fill_null(False)


def _judged(rows: pl.LazyFrame, rules: Rules) -> pl.LazyFrame:
    """Adds hour and verdict to rows that are joined with their stay and item (`time`, `inside`, `early`)."""
    good = pl.col("verdict") == CODE[KEPT]
    verdict = (
        pl.when(pl.col("time").is_null())
        .then(CODE[NO_TIME])
        .when(pl.col("inside") | (pl.col("early") & ~good))
        .then(pl.col("verdict"))
        .when(pl.col("early"))
        .then(CODE[EARLY])
        .otherwise(CODE[OUTSIDE])
    )
    return measure(rows, rules).select(
        "stay_id",
        "channel",
        "value",
        "priority",
        "text",
        "unit",
        hour=_hours(pl.col("time") - pl.col("intime")),
        verdict=verdict.cast(pl.UInt8),
        stored=pl.col("storetime").dt.epoch("us"),
        itemid=pl.col("itemid").cast(pl.Int32),
    )


def _hours(span: pl.Expr) -> pl.Expr:
    """Length of a time span, rounded as everywhere else.

    A division by a constant is done by its reciprocal, which can be off in the last digit; an event of the same second
    as a film would then lie before it. Hence a divisor that is no constant.
    """
    length = span.dt.total_microseconds()
    return length / (length - length + HOUR)


def one_per_minute(rows: pl.DataFrame, rules: Rules = Rules()) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Keeps one value of each stay, time and channel; the order of rows never matters.

    By default the one stored last, then by item priority, then lowest item; a missing store time counts as earliest.
    The last tie, equal rows but for the value, goes to the lower value. With `same_time=largest` the largest by text
    where rows have one, else by value.

    Args:
        rows: kept rows of whole stays, of `chart_rows` and `lab_rows`; `text` is needed for `same_time=largest` only.

    Returns:
        Kept events (`EVENT_COLUMNS`, sorted) and the number of superseded rows by channel (`channel, rows`).
    """
    if rules.same_time == "largest":
        order = {"text": True, "value": True}
    else:
        order = {"stored": True, "priority": False, "itemid": False, "value": False}
    keys = ["stay_id", "hour", "channel"]
    # Of values from before the stay, all moved to hour 0, the latest counts, after one of hour 0 itself.
    ordered = rows.with_columns(charted=pl.col("hour"), hour=pl.col("hour").clip(0)).sort(
        [*keys, "charted", *order], descending=[False, False, False, True, *order.values()], nulls_last=True
    )
    first = pl.any_horizontal(pl.col(key) != pl.col(key).shift(1) for key in keys).fill_null(True)
    ordered = ordered.with_columns(first=first)
    repeated = ordered.filter(~pl.col("first")).group_by("channel").agg(rows=pl.len())
    return ordered.filter("first").select(EVENT_COLUMNS), repeated


def coma_totals(events: pl.DataFrame, rules: Rules = Rules()) -> pl.DataFrame:
    """Total coma score wherever eye, motor and verbal response were charted at the same time, as further events.

    With `items=published` there are none.
    """
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
    wanted = pl.col("channel").is_in(parts) & pl.lit(rules.items == "corrected")
    return (
        events.filter(wanted)
        .with_columns(score=score)
        .group_by("stay_id", "hour")
        .agg(total=pl.col("score").sum(), parts=pl.len())
        .filter(pl.col("parts") == len(parts))
        .select("stay_id", "hour", channel=pl.lit(INDEX[TOTAL], dtype=pl.Int16), value=category)
    )
