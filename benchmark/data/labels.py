"""From cohort, films and codes to the samples of each task, still in MIMIC's own numbers.

A draft is a frame with one row a sample: `subject_id`, `stay_id`, `hadm_id`, `study_id` (-1 where there is none),
`hour` (end of the ICU series, NaN without one), `end` (moment after which nothing may be known), `film` (row of the
film frame or -1), `note` (admission whose summary is read, or -1), `y0`, `y1`, ... REA adds the components of its
label. DRG has `code` instead of labels, since its classes depend on the split.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmark.data.links import enclosing, latest_film
from benchmark.tasks import dec, dia, ihm, los, phe, rea

_FRONT = ["subject_id", "stay_id", "hadm_id", "study_id", "hour", "end", "film", "note"]


def draft_stay_tasks(
    stays: pd.DataFrame, diagnoses: pd.DataFrame | None, films: pd.DataFrame | None
) -> dict[str, pd.DataFrame]:
    """Drafts of the tasks whose samples are ICU stays.

    Args:
        stays: the cohort's stays with `first_event` (hours, NaN without events).
        diagnoses: coded diagnoses of their admissions; None: no PHE.
        films: as `read_films` gives them; None: no sample has a film.
    """
    labelled = {"ihm": ihm.samples(stays), "los": los.samples(stays), "dec": dec.samples(stays)}
    if diagnoses is not None:
        labelled["phe"] = phe.samples(stays, diagnoses)
    labelled["rea"] = rea.samples(stays)
    return {task: _stay_draft(task, frame, stays, films) for task, frame in labelled.items()}


def _stay_draft(task: str, labelled: pd.DataFrame, stays: pd.DataFrame, films: pd.DataFrame | None) -> pd.DataFrame:
    draft = labelled.merge(stays[["stay_id", "subject_id", "hadm_id", "intime", "outtime"]], on="stay_id")
    whole_stay = task in ("phe", "rea")
    draft["end"] = draft.outtime if whole_stay else draft.intime + pd.to_timedelta(draft.hour, unit="h")
    draft["film"] = _films_within(draft.rename(columns={"intime": "start"}), films)
    return _ordered(draft.assign(study_id=-1, note=draft.hadm_id), "stay_id")


def draft_dia(
    films: pd.DataFrame, findings: pd.DataFrame, stays: pd.DataFrame, admissions: pd.DataFrame
) -> pd.DataFrame:
    """Draft of the findings task: one row a study with an AP film.

    Of several films the one with the smallest dicom_id counts, those that look broken last.
    """
    chosen = films[["subject_id", "study_id", "dicom_id", "time", "whole"]].assign(film=np.arange(len(films)))
    chosen = chosen.sort_values(["whole", "dicom_id"], ascending=[False, True]).drop_duplicates("study_id")
    labelled = findings[["subject_id", "study_id"]].join(dia.samples(findings).drop(columns="study_id"), how="inner")
    draft = chosen.merge(labelled, on=["subject_id", "study_id"])
    draft["end"] = draft.time
    stay = _rows(stays.rename(columns={"intime": "start", "outtime": "end"}), enclosing_of=draft)
    hours = (draft.time - stay.start).dt.total_seconds() / 3600
    usable = dia.usable_series(hours, stay.first_event).to_numpy()
    draft["stay_id"] = stay.stay_id.where(usable, -1).astype("int64")
    draft["hour"] = np.minimum(hours, stay.los_hours).where(usable)
    admission = _rows(admissions.rename(columns={"admittime": "start", "dischtime": "end"}), enclosing_of=draft)
    draft["hadm_id"] = draft["note"] = admission.hadm_id.fillna(-1).astype("int64")
    return _ordered(draft, "study_id")


def draft_drg(
    codes: pd.DataFrame,
    with_course: set[int],
    admissions: pd.DataFrame,
    stays: pd.DataFrame,
    films: pd.DataFrame | None,
) -> pd.DataFrame:
    """Draft of the billing group task: admissions with a code and a hospital course.

    Args:
        codes: hadm_id, code. with_course: admissions whose hospital course was found. Other arguments as above.
    """
    draft = codes[codes.hadm_id.isin(with_course)].merge(admissions, on="hadm_id")
    events = stays[stays.first_event.notna()]
    draft = draft.merge(events[["hadm_id", "stay_id", "los_hours"]], on="hadm_id", how="left")
    draft["stay_id"] = draft.stay_id.fillna(-1).astype("int64")
    draft = draft.rename(columns={"los_hours": "hour", "admittime": "start", "dischtime": "end"})
    draft["film"] = _films_within(draft, films)
    return _ordered(draft.assign(study_id=-1, note=draft.hadm_id), "hadm_id")


def _films_within(windows: pd.DataFrame, films: pd.DataFrame | None) -> np.ndarray:
    if films is None:
        return np.full(len(windows), -1, dtype=np.int64)
    rows = np.full(len(windows), -1, dtype=np.int64)
    known = (windows.start.notna() & windows.end.notna()).to_numpy()
    rows[known] = latest_film(windows[known], films)
    return rows


def _rows(intervals: pd.DataFrame, *, enclosing_of: pd.DataFrame) -> pd.DataFrame:
    """The interval around each moment, blank where there is none, with the index of the moments."""
    intervals = intervals.reset_index(drop=True)
    found = enclosing(enclosing_of, intervals)
    return intervals.reindex(found).set_axis(enclosing_of.index)


def _ordered(draft: pd.DataFrame, unit: str) -> pd.DataFrame:
    """The draft's columns in order, sorted by the number of the sample's unit."""
    labels = [name for name in draft.columns if name == "code" or (name[0] == "y" and name[1:].isdigit())]
    labels.sort(key=lambda name: (len(name), name))
    further = [name for name in rea.COMPONENTS if name in draft.columns]
    return draft[[*_FRONT, *labels, *further]].sort_values(unit, ignore_index=True)
