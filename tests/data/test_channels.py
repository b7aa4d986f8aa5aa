"""The 76 columns and the item table."""

from __future__ import annotations

import pytest

from benchmark.data.channels import (
    CHANNELS,
    CONTINUOUS_COLUMNS,
    CONVERSIONS,
    EYE,
    FIRST_COLUMN,
    INDEX,
    MOTOR,
    NORMAL_VALUES,
    TOTAL,
    VALUES,
    VERBAL,
    WIDTH,
    category_scores,
    category_texts,
    column_names,
    items,
    normal_values,
)
from benchmark.data.rules import Rules


def test_columns_follow_the_public_benchmark():
    names = [channel.name for channel in CHANNELS]
    assert names == sorted(names, key=str.encode) and names[-1] == "pH"
    assert VALUES == 59 and WIDTH == 76
    assert (2, 3, *range(49, 59)) == CONTINUOUS_COLUMNS
    first = dict(zip(names, FIRST_COLUMN, strict=True))
    assert [first[name] for name in (EYE, MOTOR, TOTAL, VERBAL)] == [4, 12, 24, 37]
    columns = column_names()
    assert (
        columns[8] == f"{EYE}=None"
        and columns[15] == f"{MOTOR}=No response"
        and columns[45] == f"{VERBAL}=1.0 ET/Trach"
    )
    assert columns[28] == f"{TOTAL}=15" and columns[59] == "observed: Capillary refill rate"


def test_both_spellings_of_a_level_share_the_newer_column_and_its_score():
    for name in (EYE, MOTOR, VERBAL):
        index = INDEX[name]
        scores = category_scores(index)
        by_text = {category.text.lower(): category.score for category in CHANNELS[index].categories}
        for text, category in category_texts(index).items():
            assert scores[category] == by_text[text]
            assert not CHANNELS[index].categories[category].text[0].isdigit()
    verbal = category_texts(INDEX[VERBAL])
    assert verbal["no response-ett"] != verbal["no response"] and verbal["1.0 et/trach"] == verbal["no response-ett"]
    assert category_scores(INDEX[EYE])[category_texts(INDEX[EYE])["none"]] == 1


def test_imputed_normals_are_the_newer_texts():
    for name, text in ((EYE, "Spontaneously"), (MOTOR, "Obeys Commands"), (VERBAL, "Oriented"), (TOTAL, "15")):
        assert CHANNELS[INDEX[name]].categories[int(NORMAL_VALUES[INDEX[name]])].text == text


def test_levels_as_written():
    rules = Rules(levels="as_written")
    for name in (EYE, MOTOR, VERBAL):
        texts = [category.text.lower() for category in CHANNELS[INDEX[name]].categories]
        assert category_texts(INDEX[name], rules) == {text: number for number, text in enumerate(texts)}
    normal = {
        name: CHANNELS[INDEX[name]].categories[int(normal_values(rules)[INDEX[name]])].text for name in (EYE, MOTOR)
    }
    assert normal == {EYE: "4 Spontaneously", MOTOR: "6 Obeys Commands"}
    assert normal_values(rules)[INDEX[VERBAL]] == 6 and (normal_values(Rules()) == NORMAL_VALUES).all()
    continuous = [index for index, channel in enumerate(CHANNELS) if channel.continuous]
    assert (normal_values(rules)[continuous] == NORMAL_VALUES[continuous]).all()


PUBLISHED_ONLY = {51478, 50831, 51094, 51491}
CORRECTED_ONLY = {223951, 224308, 227242, 226329}


def test_items_of_both_profiles():
    corrected, published = ({item.itemid for item in items(Rules(items=name))} for name in ("corrected", "published"))
    assert len(corrected) == len(published) == 44 == len(items())
    assert published - corrected == PUBLISHED_ONLY and corrected - published == CORRECTED_ONLY
    without = {INDEX[TOTAL], INDEX["Capillary refill rate"]}
    assert {item.channel for item in items(Rules.of_profile("ref"))} == set(range(17)) - without
    for rules in (Rules(), Rules.of_profile("ref")):
        assert len({item.itemid for item in items(rules)}) == 44
        assert {item.rule for item in items(rules)} <= set(CONVERSIONS)
        assert {item.table for item in items(rules)} == {"icu/chartevents", "hosp/labevents"}
    assert {item.channel for item in items()} == set(range(17)) - {INDEX[TOTAL]}


def test_items_of_the_published_pipeline_have_no_bounds():
    assert {item.bounds for item in items(Rules(outliers="kept"))} == {(None,) * 4}
    bounded = {item.channel for item in items(Rules(outliers="strict")) if item.bounds != (None,) * 4}
    assert bounded == {index for index, channel in enumerate(CHANNELS) if channel.continuous}


@pytest.mark.parametrize(("better", "worse"), [(220051, 225310), (225310, 220180), (220180, 224643), (220277, 50817)])
def test_priorities(better: int, worse: int):
    priority = {item.itemid: item.priority for item in items()}
    assert priority[better] < priority[worse]
