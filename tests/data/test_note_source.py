"""The history of an earlier admission: nothing of the stay, and always the same summary."""

from __future__ import annotations

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.note_source import previous_admissions, with_previous_notes

DAY = pd.Timestamp("2150-03-01")


def at(*hours: float) -> pd.Series:
    return pd.Series(DAY + pd.to_timedelta(hours, unit="h"), dtype="datetime64[us]")


@st.composite
def histories(draw):
    hour = st.integers(0, 12).map(lambda step: step * 6.0)
    count = draw(st.integers(0, 8))
    ends, charted = (
        draw(st.lists(hour, min_size=count, max_size=count)),
        draw(st.lists(st.none() | hour, min_size=count, max_size=count)),
    )
    admissions = pd.DataFrame({"subject_id": [1 + i % 2 for i in range(count)], "hadm_id": range(10, 10 + count)})
    admissions["dischtime"] = at(*ends)
    with_note = [i for i in range(count) if draw(st.booleans())]
    notes = admissions.loc[with_note, ["subject_id", "hadm_id"]].assign(note_seq=[i % 3 for i in with_note])
    notes["charttime"] = pd.Series(
        [pd.NaT if charted[i] is None else at(charted[i])[0] for i in with_note], dtype="datetime64[us]"
    )
    rows = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(9, 18), hour), max_size=6))
    moments = pd.DataFrame(rows, columns=["subject_id", "hadm_id", "time"]).astype({"subject_id": int, "hadm_id": int})
    moments["time"] = at(*[row[2] for row in rows])
    return moments, notes.astype({"subject_id": int, "hadm_id": int}), admissions


@given(histories(), st.randoms())
@settings(max_examples=60, deadline=None)
def test_against_a_plain_search_in_any_order_of_rows(history, shuffle) -> None:
    moments, notes, admissions = history
    expected = []
    for subject, own, time in zip(moments.subject_id, moments.hadm_id, moments.time, strict=True):
        usable = [
            (note.charttime, admission.dischtime, note.note_seq, note.hadm_id)
            for note in notes.itertuples()
            for admission in admissions.itertuples()
            if note.hadm_id == admission.hadm_id != own and admission.subject_id == subject
            if note.charttime < time and admission.dischtime < time
        ]
        expected.append(max(usable)[3] if usable else -1)
    assert previous_admissions(moments, notes, admissions).tolist() == expected
    seed = shuffle.randrange(1000)
    shuffled = [frame.sample(frac=1, random_state=seed) for frame in (notes, admissions)]
    assert previous_admissions(moments, *shuffled).tolist() == expected


def test_an_admission_that_ends_later_that_day_is_not_earlier() -> None:
    """Summaries are charted at the midnight that begins the day of discharge."""
    admissions = pd.DataFrame({"subject_id": [1], "hadm_id": [10], "dischtime": at(14)})
    notes = pd.DataFrame({"subject_id": [1], "hadm_id": [10], "charttime": at(0), "note_seq": [1]})
    moments = pd.DataFrame({"subject_id": [1, 1, 1], "hadm_id": [-1, -1, 10], "time": at(9, 20, 20)})
    assert previous_admissions(moments, notes, admissions).tolist() == [-1, 10, -1]


def test_stays_look_back_from_icu_admission_and_films_from_their_own_time() -> None:
    admissions = pd.DataFrame({"subject_id": [1, 1], "hadm_id": [10, 11], "dischtime": at(24, 200)})
    notes = pd.DataFrame({"subject_id": 1, "hadm_id": [10, 11], "charttime": at(24, 192), "note_seq": [1, 2]})
    stays = pd.DataFrame({"stay_id": [7], "intime": at(100)})
    drafts = {
        "ihm": pd.DataFrame({"subject_id": [1], "stay_id": [7], "hadm_id": [11], "end": at(148), "note": [11]}),
        "dia": pd.DataFrame(
            {"subject_id": 1, "stay_id": -1, "hadm_id": [11, -1, -1], "end": at(150, 250, 12), "note": [11, -1, -1]}
        ),
    }
    changed = with_previous_notes(drafts, stays, notes, admissions)
    assert changed["ihm"].note.tolist() == [10]
    assert changed["dia"].note.tolist() == [10, 11, -1]
