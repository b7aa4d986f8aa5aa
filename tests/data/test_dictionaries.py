"""The item dictionaries of the files against the items that are read."""

from __future__ import annotations

from benchmark.data.channels import items
from benchmark.data.dictionaries import check_dictionaries
from benchmark.data.raw import RawMimic


def test_dictionaries_are_compared(tmp_path):
    for name, text in {
        "icu/icustays": "subject_id\n1\n",
        "icu/d_items": "itemid,label\n220045,Heart Rate\n220050,Something else\n",
        "hosp/d_labitems": 'itemid,label,fluid\n52027,"Glucose, Whole Blood",Blood\n51478,Glucose,Urine\n',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.csv").write_text(text)
    found = check_dictionaries(RawMimic(tmp_path))
    assert found["renamed"] == ["220050 Arterial Blood Pressure systolic: Something else"]
    assert found["unlisted"] == ["52027 Glucose, Whole Blood"] and len(found["missing"]) == len(items()) - 2
