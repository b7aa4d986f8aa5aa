"""A step of several seeds and a prediction in the fixed form, on a device other than the CPU (`tests/elsewhere.py`)."""

from __future__ import annotations

import json
import subprocess
import sys

import elsewhere
import pytest
from torch.utils import backend_registration

from benchmark.registry import models

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this version of torch has no devices that are defined in Python",
)

MODELS = [name for name, entry in models().items() if entry.group == "table3" and name != "flexcare-st"]


@pytest.fixture(scope="module")
def faults() -> dict[str, str | None]:
    """By model."""
    command = [sys.executable, elsewhere.__file__, *MODELS, *elsewhere.PLANTED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_step_stays_on_its_device_and_never_reads_a_value(model: str, faults: dict[str, str | None]) -> None:
    assert faults[model] is None


@pytest.mark.parametrize(
    ("planted", "found"),
    [("a tensor of the CPU", "two devices, elsewhere:0 and cpu"), ("a value that is read", "_local_scalar_dense")],
)
def test_a_planted_fault_is_found(planted: str, found: str, faults: dict[str, str | None]) -> None:
    assert found in faults[planted]
