"""Who the patients of the samples are, for reports by group of patients. No model and no run folder ever gets this.

`private/people.parquet` has one row a sample: sample, sex, age (years), insurance, race (as charted), race_group.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.data.raw import RawMimic, collect

FILE = Path("private") / "people.parquet"

UNKNOWN = "unknown"
"""In place of what is not charted."""

RACE_GROUPS = {"WHITE": "White", "BLACK": "Black", "HISPANIC": "Hispanic", "ASIAN": "Asian"}
"""Coarse group by how the charted race begins; every other one that says anything is "Other"."""

_NOT_SAID = ("", "UNKNOWN", "UNABLE TO OBTAIN", "PATIENT DECLINED TO ANSWER", "?")


def race_group(race: str | None) -> str:
    """The coarse group of a charted race.

    >>> race_group("BLACK/CAPE VERDEAN"), race_group("PORTUGUESE"), race_group("UNABLE TO OBTAIN"), race_group(None)
    ('Black', 'Other', 'unknown', 'unknown')
    """
    text = (race or "").strip().upper()
    if text in _NOT_SAID:
        return UNKNOWN
    return next((group for begin, group in RACE_GROUPS.items() if text.startswith(begin)), "Other")


def people(patients: pd.DataFrame, admissions: pd.DataFrame, links: pd.DataFrame) -> pd.DataFrame:
    """One row a sample, in the order of `links`.

    What an admission says is taken from the sample's own; for a film outside of any from the patient's latest one that
    had begun by then. Age is that at the beginning of the sample's own admission, or on the day of such a film.

    Args:
        patients: subject_id, gender, anchor_age, anchor_year. admissions: subject_id, hadm_id, admittime, insurance,
            race. links: sample, subject_id, hadm_id (-1 or null: none), end.
    """
    samples = links[["sample", "subject_id", "hadm_id", "end"]].copy()
    own = samples["hadm_id"].where(samples["hadm_id"].isin(admissions["hadm_id"]))
    samples["hadm_id"] = own.fillna(_latest_before(samples, admissions)).astype("Int64")
    said = admissions.drop_duplicates("hadm_id").set_index("hadm_id").reindex(samples["hadm_id"])
    person = patients.drop_duplicates("subject_id").set_index("subject_id").reindex(samples["subject_id"])
    moment = said["admittime"].where(own.notna().to_numpy(), samples["end"].to_numpy())
    age = person["anchor_age"].to_numpy(float) + pd.DatetimeIndex(moment).year - person["anchor_year"].to_numpy(float)
    return pd.DataFrame(
        {
            "sample": samples["sample"].to_numpy(),
            "sex": _texts(person["gender"]),
            "age": np.asarray(age, dtype=np.float32),
            "insurance": _texts(said["insurance"]),
            "race": _texts(said["race"]),
            "race_group": [race_group(race) for race in _texts(said["race"])],
        }
    )


def write_people(raw: RawMimic, links: pd.DataFrame, folder: Path) -> None:
    """Writes `FILE` of the data set in `folder`; `links` as in `benchmark.data.samples.Sampled`."""
    columns = ["subject_id", "gender", "anchor_age", "anchor_year"]
    patients = collect(raw.scan("hosp/patients", columns), "hosp/patients").to_pandas()
    frame = raw.scan("hosp/admissions", ["subject_id", "hadm_id", "admittime"], optional=["insurance", "race"])
    admissions = collect(frame, "hosp/admissions").to_pandas()
    people(patients, admissions, links).to_parquet(folder / FILE, index=False)


def _latest_before(samples: pd.DataFrame, admissions: pd.DataFrame) -> pd.Series:
    """The patient's latest admission that had begun by the moment of prediction, NaN without one."""
    timed = samples.loc[samples["end"].notna(), ["subject_id", "end"]].astype({"end": "datetime64[us]"})
    begun = admissions.loc[admissions["admittime"].notna(), ["subject_id", "hadm_id", "admittime"]]
    begun = begun.astype({"admittime": "datetime64[us]"}).sort_values(["admittime", "hadm_id"])
    found = pd.merge_asof(
        timed.sort_values("end").reset_index(), begun, left_on="end", right_on="admittime", by="subject_id"
    )
    return found.set_index("index")["hadm_id"].reindex(samples.index)


def _texts(values: pd.Series) -> list[str]:
    return [UNKNOWN if pd.isna(value) or not str(value).strip() else str(value).strip() for value in values]
