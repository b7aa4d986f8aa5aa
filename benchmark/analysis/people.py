"""Which group of patients each stored prediction is of.

Predictions name samples by keyed hashes; the key and what is known of the patients lie in the private folder of the
data set and stay there: what is given out here are coarse groups.
"""

from __future__ import annotations

import pandas as pd

from benchmark.data.dataset import PreparedData
from benchmark.data.people import FILE
from benchmark.errors import UserError
from benchmark.evaluation.subgroups import UNKNOWN, age_band
from benchmark.runs.execute import keyed_hashes

ATTRIBUTES = ("sex", "age", "insurance", "race")

_SEXES = {"F": "female", "M": "male"}
_INSURANCES = ("Medicaid", "Medicare", "Private", "Other", "No charge", UNKNOWN)
"""Values of MIMIC; any other text is not passed on."""


def groups_of_samples(data: PreparedData) -> pd.DataFrame:
    """The group of each sample by `ATTRIBUTES`, indexed by the sample's keyed hash.

    Raises:
        UserError: the data set was prepared without this knowledge.
    """
    file, key = data.folder / FILE, data.folder / "private" / "key.bin"
    if not file.is_file():
        raise UserError(
            f"{data.folder} does not hold who the patients are ({FILE}); prepare the data again to see subgroups"
        )
    people = pd.read_parquet(file)
    names = pd.Index(keyed_hashes(key.read_bytes(), "sample", people["sample"]), name="sample")
    return pd.DataFrame(
        {
            "sex": [_SEXES.get(sex, UNKNOWN) for sex in people["sex"]],
            "age": [age_band(age) for age in people["age"]],
            "insurance": [text if text in _INSURANCES else "another" for text in people["insurance"]],
            "race": people["race_group"].to_numpy(),
        },
        index=names,
    )
