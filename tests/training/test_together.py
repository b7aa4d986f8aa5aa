"""Seeds side by side: each has what it would have alone, and steps in the fixed form are those of the packed one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from prepared_data import ENCODER, NOTE_WIDTH, write_prepared
from stacks import make_stack
from torch import Tensor, nn
from torch.nn import functional

from benchmark.data.dataset import PreparedData
from benchmark.data.fixed import FixedSource
from benchmark.data.residency import DeviceStores
from benchmark.errors import UserError
from benchmark.registry import models
from benchmark.training import TrainingPlan, train
from benchmark.training.adam import FlatAdam
from benchmark.training.learn import make_ready
from benchmark.training.recording import Steps
from benchmark.training.stacked import Objective, SeedStack
from benchmark.training.together import train_together
from models.contract import Dimensions, Layout
from models.layout import keeping
from models.ragged import positions

CPU = torch.device("cpu")
SEEDS = (40, 42, 44)
STEP = 3e-3
"""Learning rate."""
DIMENSIONS = Dimensions(
    width=8, layers=2, dropout=0.1, note_features=NOTE_WIDTH, film=32, patch=16, hours=24, note_tokens=8
)
COLUMNS = ("flexcare", "flexcare-authors", "medfuse", "mt", "m3care", "mmf", "multimodn", "late-fusion")
WITHOUT_DROPOUT = {"medfuse": {"dropout": 0.0}, "m3care": {"dropout": 0.0}, "multimodn": {"dropout": 0.0}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return PreparedData.open(write_prepared(tmp_path_factory.mktemp("prepared") / "data"))


def plan(model: str, seed: int, **changes: object) -> TrainingPlan:
    entry = models()[model]
    settings = {
        "config": entry.config(),
        "dimensions": DIMENSIONS,
        "tasks": ("ihm", "los", "dia") if entry.multitask else ("ihm",),
        "batch_size": 16,
        "epochs": 2,
        "learning_rate": STEP,
        "task_weights": {"ihm": 0.2, "los": 0.5, "dia": 0.2},
        "halve_learning_rate": entry.multitask,
        "augmentation": "mild",
        "encoder": ENCODER,
    }
    return TrainingPlan(model=model, seed=seed, **(settings | changes))


def together(data: PreparedData, plans: list[TrainingPlan]) -> list:
    silent = [lambda report: None] * len(plans)
    return train_together(plans, data, CPU, silent, [None] * len(plans))


@pytest.mark.parametrize("model", [name for name, entry in models().items() if entry.group == "table3"])
def test_in_half_precision_every_layer_has_the_type_that_it_has_packed(model: str, data: PreparedData) -> None:
    """Attention above all, which is slow in float32."""
    stack, source, objective = make_stack(model, "dia", data, precision="bfloat16")
    batch = next(source.epoch(1))
    noise, rates, module = stack.draw(batch, [1, 2]), torch.full((2,), STEP), stack.member(0).train()
    stack.step(batch, objective, rates, noise)  # what is counted before is counted in float32
    types: list[dict[str, torch.dtype]] = []
    for root in (stack.template, module):
        types.append({})
        for name, part in root.named_modules():
            if isinstance(part, nn.Linear):
                part.register_forward_hook(
                    lambda part, given, found, name=name, of=types[-1]: of.__setitem__(name, found.dtype)
                )
    stack.step(batch, objective, rates, noise)
    with torch.autocast("cpu", torch.bfloat16):
        module(batch.of_seed(0).inputs)
    fixed, packed = types
    assert fixed == packed and torch.bfloat16 in fixed.values()


def largest_gap(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return max(float((ours[name].double() - value.double()).abs().max()) for name, value in theirs.items())


def typical_gap(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return max(float((ours[name].double() - value.double()).abs().mean()) for name, value in theirs.items())


@pytest.mark.parametrize("model", ["flexcare", "m3care", "medfuse"])
def test_a_seed_has_the_same_results_alone_and_in_company(model: str, data: PreparedData) -> None:
    company = together(data, [plan(model, seed) for seed in SEEDS])
    (alone,) = together(data, [plan(model, SEEDS[1])])
    assert company[1].info["best_epoch"] == alone.info["best_epoch"]
    assert largest_gap(company[1].state, alone.state) < STEP  # Adam makes a step out of rounding where gradients vanish
    assert typical_gap(company[1].state, alone.state) < 0.05 * STEP
    for task, frame in alone.predictions.items():
        probabilities = [name for name in frame if name[0] == "p" and name[1:].isdigit()]
        np.testing.assert_allclose(company[1].predictions[task][probabilities], frame[probabilities], atol=5e-4)
    assert largest_gap(company[0].state, alone.state) > 0.1


@pytest.mark.parametrize(
    ("model", "batch_size"),
    [*((model, 16) for model in COLUMNS), *((model, 4) for model in ("cxr-only", "medfuse", "multimodn", "m3care"))],
)
def test_without_noise_the_fixed_form_trains_as_the_packed_one(model: str, batch_size: int, data: PreparedData) -> None:
    """Also where there are batches in which nobody owns a film, whose layers then get no gradient or one of zeros."""
    config = models()[model].config
    options = WITHOUT_DROPOUT.get(model, {})
    options |= {"moe_noise": False, "top_k": 10} if "flexcare" in model else {}  # chosen experts may tie at the start
    calm = {"epochs": 1, "config": config(**options), "dimensions": Dimensions(**(vars(DIMENSIONS) | {"dropout": 0.0}))}
    calm["batch_size"] = batch_size
    packed = train(plan(model, 42, **calm), data, CPU)
    company = together(data, [plan(model, seed, **calm) for seed in SEEDS])
    assert largest_gap(company[1].state, packed.state) < STEP
    assert typical_gap(company[1].state, packed.state) < 0.05 * STEP
    np.testing.assert_allclose(company[1].history["train_loss"], packed.history["train_loss"], rtol=1e-4)


def test_a_seed_that_fails_leaves_the_others_as_they_are(data: PreparedData) -> None:
    def stop(report: object) -> None:
        raise UserError("stopped")

    plans = [plan("mmf", seed) for seed in SEEDS]
    silent = [lambda report: None] * 3
    whole = train_together(plans, data, CPU, silent, [None] * 3)
    broken = train_together(plans, data, CPU, [silent[0], stop, silent[2]], [None] * 3)
    assert str(broken[1]) == "stopped"
    for place in (0, 2):
        pd.testing.assert_frame_equal(broken[place].predictions["ihm"], whole[place].predictions["ihm"])


def test_the_time_of_steps_holds_no_other_seeds_validation(data: PreparedData) -> None:
    company = together(data, [plan("mmf", seed) for seed in SEEDS])
    assert len({tuple(trained.history["seconds"]) for trained in company}) == 1


@pytest.mark.parametrize("model", ["m3care", "medfuse"])
def test_a_seed_that_sits_a_step_out_is_as_it_was(model: str, data: PreparedData) -> None:
    tasks = {"ihm": data.task("ihm")}
    ready = [make_ready(plan(model, seed), data, tasks, CPU) for seed in SEEDS[:2]]
    stack, source = SeedStack([each.model for each in ready]), ready[0].training["ihm"]
    fixed = FixedSource(source, SEEDS[:2], 16, DeviceStores(data, ENCODER, CPU))
    batch = next(iter(fixed.epoch(1)))
    batch = replace(batch, alive=torch.tensor([True, False]))
    if model == "medfuse":  # whose batch it is given instead of its own
        batch.ehr[1] = torch.nan
    before = [stack.member(place).state_dict() for place in (0, 1)]
    before = [{name: value.clone() for name, value in state.items()} for state in before]
    stack.step(batch, Objective("binary", 1.0, {"stabiliser": 1.0}), torch.full((2,), 0.1), stack.draw(batch, [1, 2]))
    after = [stack.member(place).state_dict() for place in (0, 1)]
    assert all(torch.equal(value, before[1][name]) for name, value in after[1].items())
    assert not all(torch.equal(value, before[0][name]) for name, value in after[0].items())
    if model == "m3care":  # running statistics too
        assert any("mean" in name and not torch.equal(value, before[0][name]) for name, value in after[0].items())


def test_no_fused_attention_is_used_for_several_seeds(data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `vmap` it would leave out what its backward pass needs on a GPU."""
    calm = {"dimensions": Dimensions(**(vars(DIMENSIONS) | {"dropout": 0.0}))}  # otherwise it is not used at all
    ready = [make_ready(plan("mt", seed, **calm), data, {"ihm": data.task("ihm")}, CPU) for seed in SEEDS[:2]]
    stack = SeedStack([each.model for each in ready])
    batch = next(iter(FixedSource(ready[0].training["ihm"], SEEDS[:2], 16, DeviceStores(data, ENCODER, CPU)).epoch(1)))
    noise, allowed, attend = stack.draw(batch, [1, 2]), [], functional.scaled_dot_product_attention

    def watched(*args: object, **kwargs: object) -> Tensor:
        allowed.append(torch.backends.cuda.mem_efficient_sdp_enabled())
        return attend(*args, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", watched)
    stack.losses(batch, Objective("binary", 1.0, {}), noise)
    assert set(allowed) == {False}
    assert torch.backends.cuda.mem_efficient_sdp_enabled()


def test_index_tensors_of_a_recording_outlive_their_caches() -> None:
    with keeping() as kept:
        given = positions(Layout((3, 2), (0, 1)), CPU)
    assert any(one is given for one in kept)
    positions(Layout((3, 2), (0, 1)), CPU)
    assert len(kept) == 1, "only what is given out meanwhile"


def test_flat_adam_is_torch_adam_and_leaves_untouched_parameters_alone() -> None:
    torch.manual_seed(0)
    places, rates, touched = [(0, 12), (64, 70)], (0.1, 0.01), [(1, 1), (1, 0), (0, 1), (1, 1)]
    values, gradient = torch.randn(128), torch.zeros(128)
    spans = [[(0, 6), (64, 67)], [(6, 12), (67, 70)]]  # of each seed
    references = [[nn.Parameter(values[a:b].clone()) for a, b in own] for own in spans]
    theirs = [torch.optim.Adam(own, lr=rate) for own, rate in zip(references, rates, strict=True)]
    ours = FlatAdam(values, gradient, places, seeds=2, clip_norm=1.5)
    for flags in touched:
        gradient.zero_()
        for seed, own in enumerate(references):
            for parameter, (a, b), flag in zip(own, spans[seed], flags, strict=True):
                parameter.grad = torch.randn(b - a) if flag else None
                gradient[a:b] = parameter.grad if flag else 0.0
            nn.utils.clip_grad_norm_(own, 1.5)
            theirs[seed].step()
        ours.step(torch.tensor(rates), torch.ones(2, dtype=torch.bool))
    for own, places_of_seed in zip(references, spans, strict=True):
        for parameter, (a, b) in zip(own, places_of_seed, strict=True):
            torch.testing.assert_close(values[a:b], parameter.detach(), rtol=1e-4, atol=5e-6)


def test_where_a_device_refuses_to_record_steps_are_run_as_they_are(
    data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(Steps):
        def __init__(self, stack: SeedStack, record: bool) -> None:
            super().__init__(stack, record)
            self.record = True

        def _recorded(self, *step: object) -> None:
            self.stack.step(*step)  # one of the steps before a recording
            raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors ...")

    plans = [plan("mmf", seed, epochs=1) for seed in SEEDS[:2]]
    expected = together(data, plans)
    monkeypatch.setattr("benchmark.training.together.Steps", Refused)
    with pytest.warns(UserWarning, match=r"not recorded, .* not permitted when stream is capturing$"):
        found = together(data, plans)
    for ours, theirs in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(ours.predictions["ihm"], theirs.predictions["ihm"])
