"""From a raw value to a value in its channel's unit and a verdict on it.

Everything is an expression over rows, so that tables of hundreds of millions of rows are judged while they are read.
The unit of a value follows from its item; a charted unit that contradicts the item is reported and changes nothing.
"""

from __future__ import annotations

import polars as pl

from benchmark.data.channels import CHANNELS, INDEX, TOTAL, category_texts
from benchmark.data.rules import Rules

KEPT = "kept"
OUTSIDE = "outside the stay"
NO_TIME = "no time"
NO_VALUE = "no value"
UNKNOWN_TEXT = "unknown text"
IMPLAUSIBLE = "not a fraction or percentage"
OUTLIER = "outlier"
NOT_ARTERIAL = "not an arterial specimen"
EARLY = "of the admission, before the stay"
REPEATED = "superseded by another value of the same minute"

VERDICTS = (
    KEPT,
    OUTSIDE,
    NO_TIME,
    NO_VALUE,
    UNKNOWN_TEXT,
    IMPLAUSIBLE,
    OUTLIER,
    NOT_ARTERIAL,
    EARLY,
    REPEATED,
)
CODE = {verdict: code for code, verdict in enumerate(VERDICTS)}
"""Number of each verdict in the rows."""

REDACTED = "___"
"""What stands in the text column where it was taken out for privacy."""

RANKED_BY_TEXT = tuple(
    index
    for index, channel in enumerate(CHANNELS)
    if channel.categories or channel.name in ("Heart Rate", "Mean blood pressure", "Respiratory rate")
)
"""Channels whose texts the published pipeline compares as texts when it looks for the largest."""

_STRICT_NUMBER = r"^(\d+(\.\d*)?|\.\d+)$"
_STRICT_CHANNELS = [INDEX[name] for name in ("Glucose", "Oxygen saturation", "pH")]
"""Channels of which the published pipeline takes no other notation of a number."""

_NUMBER = r"(\d+(?:\.\d+)?)"
_PAIR = rf"^\s*{_NUMBER}\s*/\s*{_NUMBER}\s*$"

_REFILL_TEXTS = {
    "normal <3 seconds": 0,
    "normal <3 secs": 0,
    "brisk": 0,
    "abnormal >3 seconds": 1,
    "abnormal >3 secs": 1,
    "delayed": 1,
}


def measure(rows: pl.LazyFrame, rules: Rules = Rules()) -> pl.LazyFrame:
    """Converts and judges the values of rows that are joined with `cleaning.item_frame`.

    Args:
        rows: with columns `value` (text), `valuenum`, `valueuom`, `arterial` (bool or null).

    Returns:
        The same rows with `value` in the channel's unit (category number for categorical channels), `verdict` (number
        in `VERDICTS`), `text` (null unless the text is unknown or ranks values of one time) and `unit` (null unless
        the charted unit is not one of the item's).
    """
    rows = rows.rename({"value": "text"}).with_columns(raw=_number(rules))
    rows = rows.with_columns(value=_converted(rules))
    value = pl.col("value")
    outlier = (value < pl.col("outlier_low")) | (value > pl.col("outlier_high"))
    missing = value.is_null() & pl.col("raw").is_null()
    # Of most rows the text is not looked at.
    silent = pl.when(missing).then(pl.col("text")).str.strip_chars().fill_null("").is_in(["", REDACTED])
    verdict = (
        pl.when((pl.col("rule") == "arterial_percent") & ~pl.col("arterial").fill_null(False))
        .then(CODE[NOT_ARTERIAL])
        .when(missing & silent)
        .then(CODE[NO_VALUE])
        .when(missing)
        .then(CODE[UNKNOWN_TEXT])
        .when(value.is_null())
        .then(CODE[IMPLAUSIBLE])
        .when(outlier.fill_null(False))
        .then(CODE[OUTLIER])
        .otherwise(CODE[KEPT])
    )
    rows = rows.with_columns(verdict=verdict.cast(pl.UInt8), unit=_other_unit())
    shown = pl.col("verdict") == CODE[UNKNOWN_TEXT]
    if rules.same_time == "largest":
        shown |= pl.col("channel").is_in(RANKED_BY_TEXT)
    # Categorical channels have no bounds; null limits leave the value alone.
    return rows.with_columns(
        value=value.clip(pl.col("valid_low"), pl.col("valid_high")), text=pl.when(shown).then(pl.col("text"))
    ).drop("raw")


def _number(rules: Rules) -> pl.Expr:
    """The number as charted; null where there is none, and for categorical channels."""
    numeric = pl.col("rule") != "text"
    if rules.values == "number":
        return pl.when(numeric & pl.col("valuenum").is_finite()).then(pl.col("valuenum"))
    text = pl.col("text")
    strict = pl.col("channel").is_in(_STRICT_CHANNELS)
    readable = pl.when(strict).then(text.str.contains(_STRICT_NUMBER)).otherwise(numeric)
    number = pl.when(readable).then(text.str.strip_chars()).cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def _converted(rules: Rules) -> pl.Expr:
    """`raw` in the channel's unit, by the item's conversion; null where it finds no sensible value."""
    x, rule = pl.col("raw"), pl.col("rule")
    fraction = (
        pl.when(x.is_between(0.2, 1))
        .then(x)
        # Between 1 and 20 it is an oxygen flow in litres that was charted in the wrong place.
        .when(x.is_between(20, 100))
        .then(x / 100)
    )
    percent = pl.when((x > 0) & (x <= 1)).then(x * 100).otherwise(x)
    celsius = (x - 32) * 5 / 9
    pair = pl.when(x.is_null() & rule.is_in(["first_of_pair", "second_of_pair"])).then(pl.col("text"))
    return (
        pl.when(rule == "text")
        .then(_category(rules))
        .when(rule == "fraction")
        .then(fraction)
        .when(rule == "hundredth")
        .then(x / 100)
        .when(rule.is_in(["percent", "arterial_percent"]))
        .then(percent)
        .when((rule == "fahrenheit") | ((rule == "celsius") & (x >= 79)))
        .then(celsius)
        .when(rule == "inch")
        .then(x * 2.54)
        .when(rule == "pound")
        .then(x * 0.453592)
        .when(x.is_null() & (rule == "first_of_pair"))
        .then(pair.str.extract(_PAIR, 1).cast(pl.Float64))
        .when(x.is_null() & (rule == "second_of_pair"))
        .then(pair.str.extract(_PAIR, 2).cast(pl.Float64))
        .otherwise(x)
    )


def _category(rules: Rules) -> pl.Expr:
    """Category number of the text; null for other texts and for channels without categories."""
    accepted = {
        f"{index} {text}": float(number)
        for index, channel in enumerate(CHANNELS)
        if channel.categories and channel.name != TOTAL
        for text, number in (
            _REFILL_TEXTS if channel.name == "Capillary refill rate" else category_texts(index, rules)
        ).items()
    }
    text = pl.when(pl.col("rule") == "text").then(pl.col("text")).str.strip_chars().str.to_lowercase()
    key = pl.concat_str(pl.col("channel").cast(pl.String), text, separator=" ")
    return key.replace_strict(accepted, default=None, return_dtype=pl.Float64)


def _other_unit() -> pl.Expr:
    """The charted unit where it is not one of the item's."""
    # Nearly all are spelled like the first: compare that, and look closer at the rest.
    other = pl.when(pl.col("valueuom") != pl.col("usual_unit")).then(pl.col("valueuom")).str.strip_chars()
    known = pl.col("units").str.contains(
        pl.concat_str(pl.lit("|"), other.str.to_lowercase(), pl.lit("|")), literal=True
    )
    return pl.when(~known & (other != "")).then(other)
