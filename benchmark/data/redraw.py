"""Other hours for training samples of tasks that predict at one random hour of a stay.

The hour of a validation or test sample is fixed. A training sample may be drawn anew in each epoch: its series then
ends at another hour, its film is the last one until then, and its label is that of the new hour. So a model sees more
than one hour of each stay in the course of the training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.data.dataset import PreparedData, Samples, TaskData
from benchmark.data.links import preferred
from benchmark.data.rules import Rules
from benchmark.random import stream
from benchmark.tasks.draw import CANDIDATES

STAY_FILMS = Path("redraw") / "stay_films.parquet"

_GAP = 1e6
"""Hours that no stay reaches."""


def stay_films(stays: pd.DataFrame, films: pd.DataFrame | None, rules: Rules = Rules()) -> pd.DataFrame:
    """All films that can be the last one at some hour of a stay.

    Args:
        stays: stay_id, subject_id, start (from when films count), intime, outtime.
        films: as `read_films` gives them; None: there are none.

    Returns:
        stay_id, hour (since ICU admission), film (row of `films`), by stay and hour.
    """
    if films is None:
        return pd.DataFrame({"stay_id": [], "hour": [], "film": []}).astype({"stay_id": "int64", "film": "int64"})
    candidates = films.assign(film=np.arange(len(films)))[films.time.notna().to_numpy()]
    candidates = preferred(candidates, rules).drop_duplicates(["subject_id", "time"])
    pairs = stays.merge(candidates[["subject_id", "time", "film"]], on="subject_id")
    pairs = pairs[(pairs.start <= pairs.time) & (pairs.time <= pairs.outtime)]
    pairs["hour"] = (pairs.time - pairs.intime).dt.total_seconds() / 3600
    return pairs[["stay_id", "hour", "film"]].sort_values(["stay_id", "hour"], ignore_index=True)


def write_stay_films(candidates: pd.DataFrame, stay_row: Mapping[int, int], film_row: np.ndarray, out: Path) -> None:
    """Writes `out/redraw/stay_films.parquet`: series, hour, film; the first and last as rows of the stores.

    Args:
        candidates: from `stay_films`. stay_row: row of the series store by stay_id.
        film_row: row of the film store for each film, -1 where it cannot be read.
    """
    series = np.array([stay_row[stay] for stay in candidates.stay_id.tolist()], dtype=np.int64)
    film = film_row[candidates.film.to_numpy()] if len(candidates) else np.zeros(0, dtype=np.int64)
    table = pd.DataFrame({"series": series, "hour": candidates.hour.to_numpy(np.float64), "film": film})
    target = out / STAY_FILMS
    target.parent.mkdir()
    table[table.film >= 0].to_parquet(target, index=False)


class Redraw:
    """Draws hours for the training samples of one task.

    Args:
        data: the data set. task: one whose record says how a sample is labelled at any hour (`Task.label_at`).
    """

    def __init__(self, data: PreparedData, task: TaskData) -> None:
        self.name, self.label_at = task.task.name, task.task.label_at
        if self.label_at is None:
            raise ValueError(f"task {self.name} has no hours to draw")
        file = data.folder / "samples" / f"{self.name}.parquet"
        self.candidates = pd.read_parquet(file, columns=["sample", *CANDIDATES]).set_index("sample")
        films = pd.read_parquet(data.folder / STAY_FILMS).sort_values(["series", "hour"])
        self.film_series, self.film_hour, self.film = (films[name].to_numpy() for name in ("series", "hour", "film"))

    def __call__(self, samples: Samples, seed: int, epoch: int) -> Samples:
        """The samples at hours that depend on (seed, task, epoch, sample's place) alone."""
        first, last = self._window(samples)
        share = stream(seed, "hours", self.name, epoch).random(len(samples))
        return self._at(samples, first + np.floor(share * (last - first + 1)).astype(np.int64))

    def latest(self, samples: Samples) -> Samples:
        """The samples at their last hours: at no other hour is a series longer, or a film there that now is not."""
        return self._at(samples, self._window(samples)[1].astype(np.int64))

    def _window(self, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
        own = self.candidates.loc[samples.sample]
        return own["first_hour"].to_numpy(), own["last_hour"].to_numpy()

    def _at(self, samples: Samples, hours: np.ndarray) -> Samples:
        own = self.candidates.loc[samples.sample]
        labels = self.label_at(hours, own["los_hours"].to_numpy(), own["death_hour"].to_numpy())
        return replace(
            samples,
            hours=hours.astype(samples.hours.dtype),
            film=self._last_film(samples.series, hours),
            labels=np.asarray(labels, dtype=np.float32)[:, None],
        )

    def _last_film(self, series: np.ndarray, hours: np.ndarray) -> np.ndarray:
        """Row of the film store, -1 where no film was taken until then."""
        # A stay's hours stay far below the gap between the keys of two stays.
        key = series * _GAP + hours
        place = np.searchsorted(self.film_series * _GAP + self.film_hour, key, side="right") - 1
        found = (place >= 0) & (self.film_series[np.maximum(place, 0)] == series) if len(self.film) else place >= 0
        return np.where(found, self.film[np.maximum(place, 0)] if len(self.film) else -1, -1)
