"""From cohort, films and codes to the samples of each task, still in MIMIC's own numbers.

A draft is a frame with one row a sample: `subject_id`, `stay_id`, `hadm_id`, `study_id` (-1 where there is none),
`hour` (end of the ICU series, NaN without one), `end` (moment after which nothing may be known), `film` (row of the
film frame or -1), `note` (admission whose summary is read, or -1), `y0`, `y1`, ... and for some tasks the columns of
`FURTHER`. DRG has `code` instead of labels, since its classes depend on the split.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmark.data.links import enclosing, latest_film, preferred
from benchmark.data.rules import Rules
from benchmark.tasks import dec, dia, draw, ihm, los, phe, rea

_FRONT = ["subject_id", "stay_id", "hadm_id", "study_id", "hour", "end", "film", "note"]

FURTHER = {"los": draw.CANDIDATES, "dec": draw.CANDIDATES, "rea": rea.COMPONENTS}
"""What drafts and sample tables keep beside the labels: how they came about, or what redrawing the hour needs."""

LOOK_BACK = pd.Timedelta(hours=24)
"""With `film_window=day_before`: how long before the admission to the ICU a film still goes with the stay."""


def draft_stay_tasks(
    stays: pd.DataFrame, diagnoses: pd.DataFrame | None, films: pd.DataFrame | None, rules: Rules = Rules()
) -> dict[str, pd.DataFrame]:
    """Drafts of the tasks whose samples are ICU stays.

    Args:
        stays: the cohort's stays with `first_event` (hours, NaN without events).
        diagnoses: coded diagnoses of their admissions; None: no PHE.
        films: as `read_films` gives them; None: no sample has a film.
        rules: hours of LOS and DEC, codes of PHE, window and choice of films.
    """
    labelled = {"ihm": ihm.samples(stays), "los": los.samples(stays, rules), "dec": dec.samples(stays, rules)}
    if diagnoses is not None:
        labelled["phe"] = phe.samples(stays, diagnoses, rules)
    labelled["rea"] = rea.samples(stays)
    return {task: _stay_draft(task, frame, stays, films, rules) for task, frame in labelled.items()}


def _stay_draft(
    task: str, labelled: pd.DataFrame, stays: pd.DataFrame, films: pd.DataFrame | None, rules: Rules
) -> pd.DataFrame:
    draft = labelled.merge(stays[["stay_id", "subject_id", "hadm_id", "intime", "outtime"]], on="stay_id")
    whole_stay = task in ("phe", "rea")
    draft["end"] = draft.outtime if whole_stay else draft.intime + pd.to_timedelta(draft.hour, unit="h")
    draft["start"] = films_from(draft, rules)
    draft["film"] = _films_within(draft, films, rules)
    return _ordered(task, draft.assign(study_id=-1, note=draft.hadm_id), "stay_id")


def films_from(stays: pd.DataFrame, rules: Rules) -> pd.Series:
    """From when films go with each stay."""
    return stays.intime - LOOK_BACK if rules.film_window == "day_before" else stays.intime


def draft_dia(
    films: pd.DataFrame,
    findings: pd.DataFrame,
    stays: pd.DataFrame,
    admissions: pd.DataFrame,
    rules: Rules = Rules(),
) -> pd.DataFrame:
    """Draft of the findings task: one row a study with an AP film.

    Args:
        films: as `read_films` gives them; of several films of a study those that look broken count last.
        findings: subject_id, study_id and the 14 findings. stays: the cohort's, with `first_event` and `first_charted`
            (hours; see `benchmark.tasks.dia`). admissions: as `build_cohort` gives them.
        rules: choice and cut of films, label policy.
    """
    numbered = preferred(films.assign(film=np.arange(len(films))), rules)
    chosen = numbered.drop_duplicates("study_id")
    labels = dia.samples(findings, rules).drop(columns="study_id")
    draft = chosen.merge(findings[["subject_id", "study_id"]].join(labels, how="inner"), on=["subject_id", "study_id"])
    draft["end"] = draft.time
    intervals = stays.rename(columns={"intime": "start", "outtime": "end"})
    latest = "start" if rules.film_choice == "smallest_id" else "admittime"
    stay = _rows(intervals, enclosing_of=draft, latest=latest)
    hours = (draft.time - stay.start).dt.total_seconds() / 3600
    usable = dia.usable_series(hours, stay, rules).to_numpy()
    draft["stay_id"] = stay.stay_id.where(usable, -1).astype("int64")
    draft["hour"] = np.minimum(hours, stay.los_hours).where(usable)
    draft["hadm_id"] = draft["note"] = _admission(draft, films, admissions, rules).fillna(-1).astype("int64")
    return _ordered("dia", draft, "study_id")


def _admission(draft: pd.DataFrame, films: pd.DataFrame, admissions: pd.DataFrame, rules: Rules) -> pd.Series:
    """The admission during which each study was made: when its film was taken.

    With `film_choice=last_in_file` it is the admission of the last film of the study that was taken in any, and of
    several admissions the last of the table.
    """
    intervals = admissions.rename(columns={"dischtime": "end"})
    if rules.film_choice == "smallest_id":
        return _rows(intervals, enclosing_of=draft, latest="start").hadm_id
    films = films[films.study_id.isin(draft.study_id)].sort_values("row")
    inside = films[["study_id"]].join(_rows(intervals, enclosing_of=films, latest="row").hadm_id).dropna()
    return draft.study_id.map(inside.drop_duplicates("study_id", keep="last").set_index("study_id").hadm_id)


def draft_drg(
    codes: pd.DataFrame,
    with_course: set[int],
    admissions: pd.DataFrame,
    stays: pd.DataFrame,
    films: pd.DataFrame | None,
    rules: Rules = Rules(),
) -> pd.DataFrame:
    """Draft of the billing group task: admissions with a code and a hospital course.

    Args:
        codes: hadm_id, code. with_course: admissions whose hospital course was found. Other arguments as above.
    """
    draft = codes[codes.hadm_id.isin(with_course)].merge(admissions, on="hadm_id")
    events = stays[stays.first_event.notna()]
    draft = draft.merge(events[["hadm_id", "stay_id", "los_hours"]], on="hadm_id", how="left")
    draft["stay_id"] = draft.stay_id.fillna(-1).astype("int64")
    draft = draft.rename(columns={"los_hours": "hour", "dischtime": "end"})
    draft["film"] = _films_within(draft, films, rules)
    return _ordered("drg", draft.assign(study_id=-1, note=draft.hadm_id), "hadm_id")


def _films_within(windows: pd.DataFrame, films: pd.DataFrame | None, rules: Rules) -> np.ndarray:
    if films is None:
        return np.full(len(windows), -1, dtype=np.int64)
    rows = np.full(len(windows), -1, dtype=np.int64)
    known = (windows.start.notna() & windows.end.notna()).to_numpy()
    rows[known] = latest_film(windows[known], films, rules)
    return rows


def _rows(intervals: pd.DataFrame, *, enclosing_of: pd.DataFrame, latest: str) -> pd.DataFrame:
    """The interval around each moment, blank where there is none, with the index of the moments."""
    intervals = intervals.reset_index(drop=True)
    found = enclosing(enclosing_of, intervals, latest)
    return intervals.reindex(found).set_axis(enclosing_of.index)


def _ordered(task: str, draft: pd.DataFrame, unit: str) -> pd.DataFrame:
    """The draft's columns in order, sorted by the number of the sample's unit."""
    labels = [name for name in draft.columns if name == "code" or (name[0] == "y" and name[1:].isdigit())]
    labels.sort(key=lambda name: (len(name), name))
    return draft[[*_FRONT, *labels, *FURTHER.get(task, ())]].sort_values(unit, ignore_index=True)
