"""Hours of training samples drawn anew: what they end at, which film they see, which label they get."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from prepared_data import write_prepared

from benchmark.data.dataset import PreparedData
from benchmark.data.prepare import prepare
from benchmark.data.redraw import Redraw, stay_films
from benchmark.data.rules import Rules
from benchmark.simulation import simulate
from benchmark.tasks.los import bucket


def day(*hours: float) -> pd.DatetimeIndex:
    return pd.Timestamp("2150-03-01") + pd.to_timedelta(hours, unit="h")


@pytest.fixture
def data(tmp_path):
    folder = write_prepared(tmp_path, tasks=("los",))
    file = folder / "samples" / "los.parquet"
    frame = pd.read_parquet(file)
    frame["first_hour"], frame["last_hour"] = 1, frame["hours"]
    frame["los_hours"], frame["death_hour"] = frame["hours"] + 30.5, np.nan
    frame.to_parquet(file)
    films = frame[frame["series"] % 3 == 0]
    films = pd.concat([films.assign(hour=0.5, film=10), films.assign(hour=4.0, film=20)])
    (folder / "redraw").mkdir()
    films[["series", "hour", "film"]].to_parquet(folder / "redraw" / "stay_films.parquet")
    return PreparedData.open(folder)


def test_hours_films_and_labels_belong_together(data):
    task = data.task("los")
    redraw, training = Redraw(data, task), task.partitions["train"]
    seen = set()
    for epoch in range(1, 9):
        drawn = redraw(training, 40, epoch)
        assert ((drawn.hours >= 1) & (drawn.hours <= training.hours)).all()
        expected = np.where(training.series % 3 == 0, np.where(drawn.hours >= 4, 20, 10), -1)
        np.testing.assert_array_equal(drawn.film, expected)
        np.testing.assert_array_equal(drawn.labels[:, 0], bucket(training.hours + 30.5 - drawn.hours))
        np.testing.assert_array_equal(drawn.note, training.note)
        seen.update(zip(training.sample.tolist(), drawn.hours.tolist(), strict=True))
    assert len(seen) > 4 * len(training), "other hours in other epochs"
    again = redraw(redraw(training, 40, 3), 40, 5)
    np.testing.assert_array_equal(
        again.hours, redraw(training, 40, 5).hours, "an epoch does not depend on earlier ones"
    )
    assert (redraw(training, 41, 5).hours != again.hours).any()


def test_films_of_a_stay_are_those_of_its_window_one_a_moment():
    stays = pd.DataFrame({"stay_id": [7], "subject_id": [1], "start": day(0), "intime": day(0), "outtime": day(9)})
    films = pd.DataFrame(
        {
            "subject_id": [1, 1, 1, 1, 2],
            "dicom_id": ["d", "c", "b", "a", "e"],
            "row": range(5),
            "time": day(3, 3, -1, 9.5, 4),
        }
    )
    assert stay_films(stays, films).values.tolist() == [[7, 3.0, 1]], "the smallest name"
    last = Rules(film_choice="last_in_file")
    films.loc[3, "time"] = day(9)[0]
    assert stay_films(stays, films, last).values.tolist() == [[7, 3.0, 1], [7, 9.0, 3]]


@pytest.fixture(scope="module")
def simulated_data(tmp_path_factory):
    raw = tmp_path_factory.mktemp("raw") / "cohort"
    simulate(raw, 60, 3)
    out = raw.parent / "data"
    prepare(raw / "mimic-iv", out, raw / "mimic-cxr", raw / "mimic-note")
    return out


def test_a_prepared_cohort_can_be_redrawn_and_matches_its_own_fixed_hours(simulated_data):
    """At the hour of the fixed draw the redrawn film and label are those of the sample."""
    data = PreparedData.open(simulated_data)
    for name in ("los", "dec"):
        task = data.task(name)
        redraw, training = Redraw(data, task), task.partitions["train"]
        own = redraw.candidates.loc[training.sample]
        np.testing.assert_array_equal(redraw._last_film(training.series, training.hours), training.film)
        labels = task.task.label_at(training.hours, own["los_hours"].to_numpy(), own["death_hour"].to_numpy())
        np.testing.assert_array_equal(labels, training.labels[:, 0])
        drawn = redraw(training, 1, 1)
        assert (drawn.hours <= data.series.lengths[drawn.series]).all()
        assert (drawn.film >= 0).any() and (drawn.film != training.film).any()
