"""The true outcome probability of every sample that could be drawn."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from benchmark.simulation.diagnoses import phenotype_chance, problem_group_chance
from benchmark.simulation.people import Admission, Patient, after_discharge
from benchmark.simulation.radiology import Study, finding_chance

SCHEMA = pa.schema([("task", pa.string()), ("unit", pa.int64()), ("hour", pa.int32()), ("p", pa.list_(pa.float32()))])


class Truth:
    """Collects rows of ``truth.parquet``."""

    def __init__(self) -> None:
        self.parts: list[pa.Table] = []

    def add(self, task: str, units: np.ndarray | int, hours: np.ndarray | int, chances: np.ndarray) -> None:
        """Append rows; ``chances`` is (rows, classes)."""
        chances = np.atleast_2d(np.asarray(chances, dtype=np.float32))
        count, width = chances.shape
        offsets = pa.array(np.arange(0, (count + 1) * width, width, dtype=np.int32))
        lists = pa.ListArray.from_arrays(offsets, pa.array(chances.ravel()))
        columns = [pa.array([task] * count), _filled(units, count, np.int64), _filled(hours, count, np.int32), lists]
        self.parts.append(pa.Table.from_arrays(columns, schema=SCHEMA))

    def admission(self, admission: Admission, problem: int) -> None:
        """Append the rows of one admission and of its cohort stay."""
        self.add("drg", admission.hadm_id, -1, problem_group_chance(admission.latent, problem))
        stay = admission.cohort_stay
        if stay is None or not stay.outtime_known:
            return
        if stay.hour >= 48:
            self.add("ihm", stay.stay_id, -1, [stay.course.hospital_death_after(48)])
        hours, length, death = stay.course.sampled(stay.hour)
        if len(hours):
            self.add("los", stay.stay_id, hours, length)
            self.add("dec", stay.stay_id, hours, death[:, None])
        self.add("phe", stay.stay_id, -1, phenotype_chance(admission.latent))
        if not stay.died:
            self.add("rea", stay.stay_id, -1, [unfavourable_chance(admission)])

    def study(self, study: Study) -> None:
        """Append the row of one examination."""
        self.add("dia", study.study_id, -1, finding_chance(study.strength))

    def table(self) -> pa.Table:
        """Return all rows."""
        return pa.concat_tables(self.parts) if self.parts else SCHEMA.empty_table()


def unfavourable_chance(admission: Admission) -> float:
    """P(death on the ward, return to the unit or death within 30 days | left the unit alive in that hour)."""
    stay = admission.cohort_stay
    ward = float(stay.course.ward_death[stay.hour])
    return ward + (1 - ward) * float(after_discharge(admission.latent).sum())


def patient_truth(patient: Patient, problems: list[int], studies: list[Study]) -> pa.Table:
    """Return the truth rows of one patient."""
    truth = Truth()
    for admission, problem in zip(patient.admissions, problems, strict=True):
        truth.admission(admission, problem)
    for study in studies:
        truth.study(study)
    return truth.table()


def _filled(value: np.ndarray | int, count: int, kind: type) -> pa.Array:
    return pa.array(np.broadcast_to(np.asarray(value, dtype=kind), (count,)))
