"""The 76 columns and the item table."""

from __future__ import annotations

import pytest

from benchmark.data.channels import (
    CHANNELS,
    CONTINUOUS_COLUMNS,
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
)


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


def test_item_table_reads_no_urine_and_gives_each_item_one_place():
    ids = [item.itemid for item in items()]
    assert len(ids) == len(set(ids)) == 44
    assert not {51478, 50831, 51094, 51491} & set(ids)
    assert {item.table for item in items()} == {"icu/chartevents", "hosp/labevents"}
    fed = {item.channel for item in items()}
    assert fed == set(range(17)) - {INDEX[TOTAL]}


@pytest.mark.parametrize(("better", "worse"), [(220051, 225310), (225310, 220180), (220180, 224643), (220277, 50817)])
def test_priorities(better: int, worse: int):
    priority = {item.itemid: item.priority for item in items()}
    assert priority[better] < priority[worse]
