"""Diagnosis codes and diagnosis-related groups of an admission.

Whether a phenotype is coded is one Bernoulli draw per group with a probability that depends on the latents alone; the
codes that stand for it are then picked among real ones of the version in use at the time (ICD-9-CM until September
2015).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from benchmark.simulation import tables
from benchmark.simulation.people import Admission, Patient

_NO_DIAGNOSES, _NO_GROUP, _SECOND_GROUP = 0.003, 0.04, 0.01
_OTHER_CODES = 4


def phenotype_chance(latent: np.ndarray) -> np.ndarray:
    """Return P(coded) of the 25 phenotype groups, in alphabetical order of their names."""
    return _sigmoid(tables.linear("phenotypes")(latent))


@cache
def group_codes() -> tuple[str, ...]:
    """Return the diagnosis-related group codes in use, sorted."""
    return tuple(sorted({row[name] for row in tables.rows("problems") for name in ("code_major", "code_minor")}))


def draw_problem(latent: np.ndarray, random: np.random.Generator) -> int:
    """Draw the main problem of an admission (a row of the problem table)."""
    odds = np.exp(tables.linear("problems")(latent))
    return int(np.searchsorted(np.cumsum(odds), random.random() * odds.sum()))


def problem_group_chance(latent: np.ndarray, problem: int) -> np.ndarray:
    """Return the probability of each class of ``group_codes`` when the main problem is known, as it is from the
    hospital course."""
    row, major, result = tables.rows("problems")[problem], _major_chance(latent), np.zeros(len(group_codes()))
    result[group_codes().index(row["code_major"])] += major
    result[group_codes().index(row["code_minor"])] += 1 - major
    return result


def _major_chance(latent: np.ndarray) -> float:
    """Probability that the admission is coded with a major complication."""
    early, settled = latent[tables.features().index("early")], latent[tables.features().index("settled")]
    return float(_sigmoid(3.0 * (early + settled) / 2 + 0.3))


def icd_version(patient: Patient, admission: Admission) -> int:
    """Return 9 before October 2015 and 10 from then on, in the patient's real calendar."""
    years = admission.admitted / (365.25 * 86_400)
    return 9 if patient.real_year + years < 2015.75 else 10


def draw_codes(patient: Patient, admission: Admission, random: np.random.Generator) -> list[tuple[str, int]]:
    """Draw the coded diagnoses of an admission in billing order, as (code, version)."""
    version = icd_version(patient, admission)
    coded = random.random(len(tables.linear("phenotypes").names)) < phenotype_chance(admission.latent)
    none = random.random() < _NO_DIAGNOSES
    codes = []
    for row in np.asarray(tables.rows("phenotypes"), dtype=object)[coded]:
        choices = _codes(row["ccs"], version)
        count = 1 if random.random() < 0.75 else min(2, len(choices))
        first = int(random.integers(len(choices)))
        codes += [choices[(first + step) % len(choices)] for step in range(count)]
    others = _codes("0", version)
    picked = random.permutation(len(others))[: random.integers(1, _OTHER_CODES + 1)]
    codes += [others[position] for position in picked]
    order = random.permutation(len(codes))
    return [] if none else [(codes[position], version) for position in order]


@cache
def _codes(ccs: str, version: int) -> tuple[str, ...]:
    return tuple(row["code"] for row in tables.rows("codes") if row["ccs"] == ccs and row["version"] == str(version))


def draw_groups(admission: Admission, problem: int, random: np.random.Generator) -> list[dict]:
    """Draw the rows of ``drgcodes``: usually one HCFA and one APR row, by column name."""
    row = tables.rows("problems")[problem]
    kind = "major" if random.random() < _major_chance(admission.latent) else "minor"
    level = int(np.clip(np.round(2.5 + admission.latent[tables.features().index("settled")]), 1, 4))
    shown, second = random.random() >= _NO_GROUP, random.random() < _SECOND_GROUP
    result = []
    if shown:
        result.append({"drg_type": "HCFA", "drg_code": row[f"code_{kind}"], "description": row[f"description_{kind}"]})
    if shown and second:
        other = tables.rows("problems")[int(random.integers(len(tables.rows("problems"))))]
        result.append({"drg_type": "HCFA", "drg_code": other["code_minor"], "description": other["description_minor"]})
    refined = {"drg_type": "APR", "drg_code": row["apr_code"], "description": row["apr_description"]}
    return [*result, refined | {"drg_severity": level, "drg_mortality": level}]


def _sigmoid(value: np.ndarray | float) -> np.ndarray | float:
    return 1 / (1 + np.exp(-value))
