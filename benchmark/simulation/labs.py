"""Laboratory rows of one patient: blood chemistry, blood gases, and urine as a trap for pipelines that go by name
alone.

Results inside a stay are also charted at the bedside, as in the real tables.
"""

from __future__ import annotations

import numpy as np

from benchmark.simulation.people import DAY, HOUR, Admission, Patient, Stay
from benchmark.simulation.signals import FROM_NUMBER, TEXTS, Rows, Signals
from benchmark.simulation.streams import EVENT_SLOTS
from benchmark.simulation.vitals import Chart

_NO_ADMISSION, _REDACTED = 0.03, 0.02
_ARTERIAL, _VENOUS, _HIDDEN = TEXTS.index("ART."), TEXTS.index("VEN."), TEXTS.index("___")


class Laboratory:
    """Collects the laboratory rows of one patient and numbers them."""

    def __init__(self, patient: Patient, random: np.random.Generator) -> None:
        self.patient, self.random = patient, random
        self.rows = Rows()
        self.specimens = patient.number * EVENT_SLOTS + 10_000_000

    def specimen(
        self, hadm_id: int, times: np.ndarray, results: dict[int, tuple[np.ndarray, np.ndarray | int]], delay: int
    ) -> None:
        """Append one specimen per time with the given items; ``results`` maps item id to (numbers, text codes)."""
        count, random = len(times), self.random
        specimens = self.specimens + np.arange(count)
        self.specimens += count
        admission = np.where(random.random(count) < _NO_ADMISSION, -1, hadm_id)
        store = times + 60 * (delay + random.integers(0, 60, count))
        for item, (numbers, text) in results.items():
            text = np.broadcast_to(text, count)
            if item == 50931:
                text = np.where(random.random(count) < _REDACTED, _HIDDEN, text)
            measured = ~(np.isnan(numbers) & (text == FROM_NUMBER))
            result = {
                "hadm_id": admission,
                "specimen_id": specimens,
                "time": times,
                "store": store,
                "number": numbers,
                "text": text,
            }
            result = {name: values[measured] for name, values in result.items()}
            self.rows.extend(int(measured.sum()), subject_id=self.patient.subject_id, itemid=item, **result)

    def stay(self, hadm_id: int, latent: np.ndarray, stay: Stay, signals: Signals, chart: Chart) -> None:
        """Draw the specimens taken during a stay and chart them at the bedside."""
        random = self.random
        hours = np.arange(len(signals.hours))
        level = signals.level
        glucose = np.round(np.clip(level["glucose"], 35, 900))
        at = hours[(random.random(len(hours)) < 0.09)]
        times = chart.times(at)
        inside = times <= stay.outtime
        at, times = at[inside], times[inside]
        self.specimen(hadm_id, times, {50931: (glucose[at], FROM_NUMBER)}, delay=40)
        chart.add(220621, times, glucose[at], late=60)
        stick = hours[random.random(len(hours)) < np.clip(0.11 + 0.05 * latent[6], 0.02, 0.4)]
        chart.add(
            225664, chart.times(stick), np.round(glucose[stick] * np.exp(0.06 * random.standard_normal(len(stick))))
        )
        self._gas(hadm_id, signals, stay, chart, glucose)
        self._urine(hadm_id, stay.intime, stay.outtime, latent)

    def _gas(self, hadm_id: int, signals: Signals, stay: Stay, chart: Chart, glucose: np.ndarray) -> None:
        random, level = self.random, signals.level
        share = np.clip(0.1 + 0.05 * signals.severity, 0.03, 0.4)
        at = np.flatnonzero(random.random(len(share)) < share)
        times = chart.times(at)
        at, times = at[times <= stay.outtime], times[times <= stay.outtime]
        venous = random.random(len(at)) < 0.2
        acidity = np.round(np.clip(level["ph"][at] - 0.03 * venous, 6.8, 7.7), 2)
        saturation = np.round(np.clip(np.where(venous, level["saturation"][at] - 28, level["saturation"][at]), 30, 100))
        for kind, code, item in ((~venous, _ARTERIAL, 223830), (venous, _VENOUS, 220274)):
            which, when = at[kind], times[kind]
            some = random.random(len(which)) < 0.5
            nothing = np.full(len(which), np.nan)
            results = {
                50820: (acidity[kind], FROM_NUMBER),
                52033: (nothing, np.full(len(which), code)),
                50809: (np.where(some, glucose[which], np.nan), FROM_NUMBER),
                50817: (saturation[kind], FROM_NUMBER),
            }
            self.specimen(hadm_id, when, results, delay=3)
            chart.add(item, when, acidity[kind], late=5)
            chart.add(226537, when[some], glucose[which][some], late=5)
        seen = (~venous) & (random.random(len(at)) < 0.25)
        chart.add(220227, times[seen], saturation[seen], late=5)

    def _urine(self, hadm_id: int, begin: int, end: int, latent: np.ndarray) -> None:
        """Urine and other fluids: pH and glucose that are not those of blood."""
        random = self.random
        count = int(random.poisson(0.6))
        times = np.sort(random.integers(begin, max(end, begin + 1), count))
        times -= times % 60
        acidity = np.round(random.uniform(5, 8, count) * 2) / 2
        sugar = np.where(random.random(count) < 0.3, np.round(np.exp(5 + 0.8 * random.standard_normal(count))), np.nan)
        item = 51094 if random.random() < 0.2 else 51491
        self.specimen(hadm_id, times, {item: (acidity, FROM_NUMBER), 51478: (sugar, FROM_NUMBER)}, delay=60)
        if random.random() < 0.05:
            when = np.array([begin + (end - begin) // 2])
            self.specimen(
                hadm_id, when - when % 60, {50831: (np.round(random.uniform(6.9, 7.9, 1), 2), FROM_NUMBER)}, delay=20
            )

    def ward(self, admission: Admission) -> None:
        """Draw morning chemistry outside the unit, for the whole admission; rows inside a stay are left to ``stay``."""
        random = self.random
        days = max(1, (admission.discharged - admission.admitted) // DAY)
        times = admission.admitted + np.arange(days) * DAY + random.integers(1, 23, days) * HOUR
        times -= times % 60
        outside = (times <= admission.discharged) & ~np.any(
            [(times >= s.intime) & (times <= s.outtime) for s in admission.stays] or [times < 0], axis=0
        )
        times = times[outside][:60]
        glucose = np.round(np.clip(132 + 30 * admission.latent[6] + 22 * random.standard_normal(len(times)), 40, 700))
        self.specimen(admission.hadm_id, times, {50931: (glucose, FROM_NUMBER)}, delay=40)
