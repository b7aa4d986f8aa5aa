"""`bench data check` on a sound, a damaged and a leaking data set."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from raw_files import small_hospital

from benchmark import cli
from benchmark.data.fingerprint import fingerprint
from benchmark.data.prepare import prepare


@pytest.fixture
def folder(tmp_path) -> Path:
    prepare(**small_hospital().write(tmp_path / "raw"), out=tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def check(monkeypatch, capsys):
    def call(folder: Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", "data", "check", str(folder)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return call


def test_check(folder, check):
    code, said, _ = check(folder)
    assert code == 0 and "content unchanged" in said and "all hold" in said

    frame = pd.read_parquet(folder / "samples" / "ihm.parquet")
    frame["hours"] = np.int32(60)
    frame.to_parquet(folder / "samples" / "ihm.parquet", index=False)
    code, _, fault = check(folder)
    assert code == 2 and "have changed since it was prepared" in fault

    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": fingerprint(folder)}))
    code, said, _ = check(folder)
    assert code == 1 and "BROKEN ihm: hours" in said
