"""The data set that studies are tested on."""

from __future__ import annotations

from pathlib import Path

import pytest
from tuning_data import prepare


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("tuning"))
