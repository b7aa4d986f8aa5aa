"""Finished runs as models again, for analyses that need more than stored predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.errors import UserError
from benchmark.runs.collect import read_run
from benchmark.runs.execute import read_state, training_plan
from benchmark.runs.folder import runs_folder
from benchmark.runs.job import job_of

if TYPE_CHECKING:
    import torch

    from benchmark.data.dataset import PreparedData
    from benchmark.training import Restored


def restore_run(out: Path, run: str, data: PreparedData, device: torch.device) -> Restored:
    """The trained model of a run and the test samples of its tasks.

    Raises:
        UserError: the run was made from other data, is not finished, or does not fit this version of the model.
    """
    from benchmark.training import restore

    job = job_of(read_run(runs_folder(out) / run)["job"])
    if job.data != data.fingerprint:
        raise UserError(f"{run} was made from other data than {data.name}")
    try:
        return restore(training_plan(job), read_state(out, run), data, device)
    except RuntimeError as fault:  # torch names every tensor that does not fit; the first line is enough
        raise UserError(f"{run}: its checkpoint does not fit the model: {str(fault).splitlines()[0]}") from fault
