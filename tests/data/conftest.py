"""A small hospital whose raw files tests may spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from raw_files import small_hospital


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    small_hospital().write(root, compress=False)
    return root


@pytest.fixture
def root(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "raw"))
