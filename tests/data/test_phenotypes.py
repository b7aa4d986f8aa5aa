"""Code groups against published counts."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmark.data.phenotypes import (
    PHENOTYPES,
    gem_codes,
    gem_groups,
    icd9_categories,
    icd10_categories,
    phenotypes_of,
)
from benchmark.data.rules import Rules
from benchmark.errors import UserError

CODES = {  # CCS category: number of ICD-9 codes (CCS 2015), of ICD-10-CM codes (CCS for ICD-10-CM 2019.1)
    157: (6, 6), 109: (25, 190), 100: (40, 17), 106: (13, 22), 158: (19, 15), 127: (15, 16), 238: (145, 768),
    105: (28, 27), 108: (16, 24), 101: (20, 30), 50: (57, 463), 49: (12, 14), 53: (5, 10), 98: (2, 1), 55: (15, 13),
    153: (40, 22), 99: (38, 18), 151: (24, 44), 133: (62, 64), 134: (60, 60), 130: (17, 23), 122: (62, 54),
    131: (16, 18), 2: (26, 43), 249: (4, 5),
}  # fmt: skip


def test_number_of_codes_in_each_group():
    nine, ten = Counter(icd9_categories().values()), Counter(icd10_categories().values())
    assert {p.ccs: (nine[p.ccs], ten[p.ccs]) for p in PHENOTYPES} == CODES
    assert sum(count for count, _ in CODES.values()) == 767
    assert (len(icd9_categories()), len(nine)) == (15_072, 283)


def test_published_number_of_codes_in_each_group():
    published = [6, 20, 6, 12, 15, 11, 119, 22, 15, 16, 35, 10, 5, 2, 13, 25, 11, 21, 56, 49, 15, 47, 11, 24, 4]
    ten = Counter(category for _, category in gem_codes())
    assert [ten[phenotype.ccs] for phenotype in PHENOTYPES] == published
    assert (sum(published), len(gem_groups())) == (570, 767 + 570)
    assert all(len(categories) == 1 for categories in gem_groups().values())


@pytest.mark.parametrize(
    ("code", "groups"),
    [("4019", [98]), ("I10", [98]), ("J99", [133]), ("R6521", [249]), ("K228", [153]), ("K56699", [153]),
     ("I21A9", [100]), ("E1122", []), ("J9601", []), ("I639", []), ("I4811", []), ("i10", []), ("I10.", [])],
)  # fmt: skip
@pytest.mark.parametrize("version", [9, 10])
def test_published_groups_of_single_codes(code, version, groups):
    assert [PHENOTYPES[index].ccs for index in phenotypes_of(code, version, Rules(icd10="gem"))] == groups


def test_names_are_in_alphabetical_order():
    names = [phenotype.name for phenotype in PHENOTYPES]
    assert names == sorted(names) and len(names) == 25


@pytest.mark.parametrize(
    ("code", "version", "groups"),
    [
        ("R6521", 10, [2, 249]),
        ("R6520", 10, [2]),
        ("I10", 10, [98]),
        ("4019 ", 9, [98]),
        ("j96.01", 10, [131]),
        ("I50810", 10, [108]),
        ("I4811", 10, [106]),  # newer than the table: as I48.1
        ("I4820", 10, [106]),
        ("I48", 10, [106]),  # a heading: as all codes below it
        ("E11", 10, []),  # a heading whose codes are in two groups
        ("4019", 10, []),
        ("I10", 9, []),
        ("V707", 9, []),
        ("", 10, []),
    ],
)
def test_groups_of_single_codes(code, version, groups):
    assert sorted(PHENOTYPES[index].ccs for index in phenotypes_of(code, version)) == groups


def test_only_septic_shock_is_in_two_groups():
    both = [code for code in icd10_categories() if len(phenotypes_of(code, 10)) > 1]
    assert both == ["R6521"]


def test_unknown_version_is_refused():
    with pytest.raises(UserError, match="icd_version 11"):
        phenotypes_of("I10", 11)
