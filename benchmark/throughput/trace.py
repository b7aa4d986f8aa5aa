"""A trace of one training step, for a browser's trace viewer."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from benchmark.files import replacing
from benchmark.throughput.forms import Subject, make_runner
from benchmark.throughput.steps import DTYPES, Request


def write_trace(request: Request, subject: Subject, file: Path) -> None:
    """Profiles one step of the request's first form after one of warm-up."""
    runner = make_runner(subject, request.forms[0], DTYPES[request.dtypes[0]], request.batch_size, request.seeds)
    if isinstance(runner, str):
        raise ValueError(f"{subject.entry.name} has no form {request.forms[0]}: {runner}")
    batch = runner.fit(subject.batch(request.batch_size, 0), 0)
    runner.train(batch)
    activities = [ProfilerActivity.CPU]
    if request.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, record_shapes=True) as traced:
        runner.train(batch)
    with tempfile.TemporaryDirectory() as place:
        written = Path(place) / "trace.json"
        traced.export_chrome_trace(str(written))
        with replacing(file) as stream:
            stream.write(written.read_bytes())
