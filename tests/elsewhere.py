"""Steps of models on a device that has shapes and no numbers: run as a program, for it changes torch for good.

A device that is defined in Python, on which torch keeps fake tensors: autograd and vmap work, no kernel runs. A tensor
of the CPU among the others is a fault there, and so is any read of a value on the host, as would make a GPU wait. It is
the same torch for all devices until the kernels, which no test without a GPU can see, nor does autocast choose here.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(names: list[str]) -> None:
    """Prints what went wrong with each model, null for nothing."""
    sys.path.insert(0, str(ROOT))
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils import backend_registration

    class Backend(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

    backend_registration._setup_privateuseone_for_python_backend("elsewhere", Backend())
    plain = torch.Generator

    class Generator(plain):
        def __new__(cls, device: object = "cpu") -> torch.Generator:
            return plain("cpu")  # a device that is defined in Python has none

    torch.Generator = Generator
    FakeTensorMode.__deepcopy__ = lambda self, memo: self
    with FakeTensorMode():
        print(json.dumps({name: _fault(name, torch.device("elsewhere", 0)) for name in names}))


def _fault(name, device) -> str | None:
    try:
        _step_and_prediction(name, device)
    except Exception as fault:
        place = traceback.extract_tb(fault.__traceback__)
        ours = [f"{Path(each.filename).name}:{each.lineno}" for each in place if str(ROOT) in each.filename]
        return f"{ours[-1]}: {type(fault).__name__}: {fault}"


def _step_and_prediction(name, device) -> None:
    import torch

    from benchmark.throughput import fixed_form
    from benchmark.throughput.forms import make_runner
    from benchmark.throughput.mixes import mixes
    from models.contract import Dimensions

    fixed_form.SAMPLES_FOR_ROOMS = 8
    subject = _subject(_entry(name), mixes(["los"])["los"], Dimensions(**_SIZES), device)
    runner = make_runner(subject, "fixed", torch.float32, 3, 2)
    batch = runner.fit(subject.batch(3, 0), 0)
    runner.train(batch)
    logits = runner.infer(batch)
    if logits.device != device:
        raise ValueError(f"logits on {logits.device}")


_SIZES = {"width": 8, "layers": 1, "heads": 2, "hours": 2, "note_tokens": 2, "film": 16, "patch": 8}


def _subject(*arguments):
    """A subject whose modules are put on the device parameter by parameter; `Module.to` cannot do so with fakes."""
    import torch

    from benchmark.throughput.forms import Subject

    class Moving(Subject):
        def build(self, make, seed):
            return super().build(lambda *how: moved(make(*how), self.device), seed)

    def moved(module, device):
        for part in module.modules():
            for name, value in list(part.named_parameters(recurse=False)):
                there = torch.empty(value.shape, dtype=value.dtype, device=device)
                part._parameters[name] = torch.nn.Parameter(there, value.requires_grad)
            for name, value in list(part.named_buffers(recurse=False)):
                part._buffers[name] = torch.zeros(value.shape, dtype=value.dtype, device=device)
        module.to = lambda device: module
        return module

    return Moving(*arguments)


def _entry(name):
    from dataclasses import replace

    from benchmark.registry import models

    if name not in PLANTED:
        return models()[name]
    entry = models()["mmf"]

    def build(*how):
        module = entry.build(*how)
        module.norm.register_forward_hook(lambda norm, given, result: PLANTED[name](result))
        return module

    return replace(entry, build=build)


def _mixed(values):
    import torch

    return values * torch.ones(values.shape[-1])


PLANTED = {"a tensor of the CPU": _mixed, "a value that is read": lambda values: values * float(values.sum())}
"""Models with a fault, to show that it is found."""

if __name__ == "__main__":
    main(sys.argv[1:])
