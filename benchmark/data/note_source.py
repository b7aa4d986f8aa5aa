"""The admission whose discharge summary holds a sample's history, when nothing of the stay may be in it.

The summary of the stay's own admission was written at discharge, or after death, so its history knows more than was
known at the start of the stay. The strictly causal source is the summary of an earlier admission.
"""

from __future__ import annotations

import numpy as np
import pandas as pd


def previous_admissions(moments: pd.DataFrame, notes: pd.DataFrame, admissions: pd.DataFrame) -> np.ndarray:
    """The admission whose summary is the latest that was there at a moment, -1 where there was none.

    A summary was there if it belongs to another admission of the patient that had ended, and if it was charted, both
    before the moment: charted is a day without an hour, so that alone does not rule out an admission later on that day.

    Args:
        moments: subject_id, hadm_id (the admission around the moment, or -1), time.
        notes: one row an admission: subject_id, hadm_id, charttime, note_seq. admissions: subject_id, hadm_id,
            dischtime.

    Returns:
        hadm_id for each moment. Of summaries charted at one time that of the later discharge counts, then the higher
        sequence number, then the higher admission number.

    >>> day = lambda *days: pd.Timestamp("2150-03-01") + pd.to_timedelta(days, unit="D")
    >>> admissions = pd.DataFrame({"subject_id": 1, "hadm_id": [11, 12, 13], "dischtime": day(5, 20, 40)})
    >>> notes = admissions.rename(columns={"dischtime": "charttime"}).assign(note_seq=[1, 2, 3])
    >>> moments = pd.DataFrame({"subject_id": [1, 1, 1, 2], "hadm_id": [11, 13, -1, -1], "time": day(3, 30, 41, 9)})
    >>> previous_admissions(moments, notes, admissions).tolist()
    [-1, 12, 13, -1]
    """
    written = notes.merge(admissions[["subject_id", "hadm_id", "dischtime"]], on=["subject_id", "hadm_id"])
    asked = moments[["subject_id", "time"]].assign(moment=np.arange(len(moments)), own=moments.hadm_id.to_numpy())
    pairs = asked.merge(written, on="subject_id")
    pairs = pairs[(pairs.hadm_id != pairs.own) & (pairs.dischtime < pairs.time) & (pairs.charttime < pairs.time)]
    pairs = pairs.sort_values(["moment", "charttime", "dischtime", "note_seq", "hadm_id"], na_position="first")
    pairs = pairs.drop_duplicates("moment", keep="last")
    chosen = np.full(len(moments), -1, dtype=np.int64)
    chosen[pairs.moment.to_numpy()] = pairs.hadm_id.to_numpy()
    return chosen


def with_previous_notes(
    drafts: dict[str, pd.DataFrame], stays: pd.DataFrame, notes: pd.DataFrame, admissions: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """The drafts with the summary of an earlier admission: before the ICU admission, or before the film of DIA.

    Args:
        drafts: of tasks that read a history, not a course. stays: stay_id, intime. notes, admissions: as above.
    """
    begin = stays.set_index("stay_id").intime
    changed = {}
    for task, draft in drafts.items():
        time = draft.end if task == "dia" else draft.stay_id.map(begin)
        moments = draft[["subject_id", "hadm_id"]].assign(time=time)
        changed[task] = draft.assign(note=previous_admissions(moments, notes, admissions))
    return changed
