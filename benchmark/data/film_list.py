"""Which films there are, and what was found in them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

from benchmark.data.films import looks_whole
from benchmark.data.raw import RawMimic, collect
from benchmark.data.rules import Rules
from benchmark.tasks.dia import FINDINGS

NO_TIME, NO_FILE = "no date or time", "no such file"
"""Why an anterior-posterior film cannot be used."""


def study_time(date: pl.Expr, time: pl.Expr) -> pl.Expr:
    """Moment of a film from its date (a number YYYYMMDD) and time (a number HHMMSS.fff, leading zeros lost).

    >>> frame = pl.DataFrame({"date": [21500301] * 3, "time": [5.2, 73112.0, 213014.531]})
    >>> frame.select(study_time(pl.col("date"), pl.col("time")).dt.strftime("%H:%M:%S")).to_series().to_list()
    ['00:00:05', '07:31:12', '21:30:14']
    """
    whole = time.floor().cast(pl.Int64)
    seconds = whole // 10000 * 3600 + whole // 100 % 100 * 60 + whole % 100
    day = date.cast(pl.String).str.to_datetime("%Y%m%d", time_unit="us")
    return day + pl.duration(seconds=seconds, time_unit="us")


CODED_VIEW = "ViewCodeSequence_CodeMeaning"


VIEWS = ("AP", "PA", "LATERAL", "LL")
"""Positions of view that are counted by name."""

ALSO_FRONTAL = "blank, coded antero-posterior"


def read_films(raw: RawMimic, rules: Rules = Rules()) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, int]]:
    """All anterior-posterior films that have a time and a file, those that lack one, and numbers of films by view.

    Returns:
        Two frames of subject_id, study_id, dicom_id, time, row (in the metadata table), sorted by dicom_id, rows
        numbered from 0; the first with `whole`: False where a study has several films and this one's file looks broken;
        the second with `reason`: `NO_TIME` or `NO_FILE`. And the numbers of all films: by `VIEWS`, "other", "blank",
        and `ALSO_FRONTAL` if the rules take such.
    """
    columns = ["dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "StudyTime"]
    frame = raw.scan("cxr/metadata", columns, optional=[CODED_VIEW]).with_row_index("row")
    view = _view(rules)
    numbers = dict(collect(frame.group_by(view.alias("view")).len(), "cxr/metadata").rows())
    views = {name: numbers.get(name, 0) for name in (*VIEWS, "other", "blank")}
    frontal = view == "AP"
    if rules.views == "ap_or_coded":
        views[ALSO_FRONTAL] = numbers.get(ALSO_FRONTAL, 0)
        frontal = view.is_in(["AP", ALSO_FRONTAL])
    time = study_time(pl.col("StudyDate"), pl.col("StudyTime")).alias("time")
    frame = frame.filter(frontal).select("subject_id", "study_id", "dicom_id", time, pl.col("row").cast(pl.Int64))
    frame = frame.sort("dicom_id")
    films = collect(frame, "cxr/metadata").to_pandas()
    timed = films.time.notna().to_numpy()
    there = timed.copy()
    there[timed] = _asked(Path.is_file, raw, films[timed])
    lacking = films.assign(reason=np.where(timed, NO_FILE, NO_TIME))[~there].reset_index(drop=True)
    films = films[there].reset_index(drop=True)
    choice = films.duplicated("study_id", keep=False)
    whole = np.ones(len(films), dtype=bool)
    whole[choice] = _asked(looks_whole, raw, films[choice])
    return films.assign(whole=whole), lacking, views


def _view(rules: Rules) -> pl.Expr:
    """What a film is counted as."""
    view = pl.col("ViewPosition").fill_null("").str.strip_chars().str.to_uppercase()
    blank = pl.lit("blank")
    if rules.views == "ap_or_coded":
        coded = pl.col(CODED_VIEW).str.strip_chars().str.to_lowercase() == "antero-posterior"
        blank = pl.when(coded).then(pl.lit(ALSO_FRONTAL)).otherwise(blank)
    return pl.when(view == "").then(blank).when(view.is_in(VIEWS)).then(view).otherwise(pl.lit("other"))


def _asked(question: Callable[[Path], bool], raw: RawMimic, films: pd.DataFrame) -> np.ndarray:
    """The answer for the file of each film; several at a time, since the files may lie on a slow network."""
    triples = zip(films.subject_id, films.study_id, films.dicom_id, strict=True)
    with ThreadPoolExecutor(8) as pool:
        return np.array(list(pool.map(question, [raw.film_path(*triple) for triple in triples])), dtype=bool)


def read_findings(raw: RawMimic) -> pd.DataFrame:
    """Labels of all studies: subject_id, study_id and the 14 findings (1, 0, -1 or NaN)."""
    frame = raw.scan("cxr/chexpert", ["subject_id", "study_id", *FINDINGS])
    return collect(frame.sort("study_id"), "cxr/chexpert").to_pandas()


def of_other_patients(films: pd.DataFrame, findings: pd.DataFrame) -> int:
    """How many films are of a study whose findings name another patient: such findings are nobody's."""
    owner = films.study_id.map(findings.set_index("study_id").subject_id)
    return int((owner.notna() & (owner != films.subject_id)).sum())
