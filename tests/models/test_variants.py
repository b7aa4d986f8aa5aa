"""Presets, ablations and the pretrained network: what each of them is, against the full model."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from random_batches import BINARY, PATTERNS, SMALL, make_batch, randomise
from torch import Tensor

from models import ENTRIES
from models.contract import Dimensions, Head, Loaded, ModelEntry, count_parameters
from models.flexcare import FlexCare, FlexCareConfig
from models.mixture_of_experts import MixtureOfExperts, OneForAll
from models.variants import PRESETS, load_pretrained

BY_NAME = {entry.name: entry for entry in ENTRIES}
TWO = (BINARY, Head(4, "multilabel", "ehr"))
SIX = [Head(classes, "binary", "ehr") for classes in (1, 10, 1, 25, 1, 14)]


def build(name: str = "flexcare", heads: tuple[Head, ...] = TWO, seed: int = 0, **options) -> FlexCare:
    entry = BY_NAME[name]
    torch.manual_seed(seed)
    return randomise(entry.build(SMALL, heads, entry.config(**options)).double(), seed).eval()


def same_start(one: FlexCare, other: FlexCare) -> None:
    """Gives `other` the values of `one` wherever both have a parameter of that name and shape."""
    values = one.state_dict()
    state = {name: values[name] for name, v in other.state_dict().items() if v.shape == values[name].shape}
    other.load_state_dict(state, strict=False)


def test_names_groups_and_what_differs_from_the_default():
    default = asdict(FlexCareConfig())
    differences = {
        name: {key: value for key, value in asdict(entry.config()).items() if value != default.get(key)}
        for name, entry in BY_NAME.items()
    }
    assert differences == {
        "flexcare-st": {},
        "flexcare": {},
        "flexcare-authors": {
            "mask_mode": "additive_one",
            "layer_init": "cloned",
            "task_rows": 40,
            "ehr_rows": 600,
            "cxr_rows": 197,
            "note_rows": 600,
        },
        "flexcare-a": {"fused": "modalities", "beta": 0.0, "moe": "shared"},
        "flexcare-b": {"beta": 0.0, "moe": "shared"},
        "flexcare-c": {"moe": "shared"},
        "flexcare-d": {"beta": 0.0},
        "flexcare-no-task-token": {"task_token": "shared"},
        "flexcare-no-task-token-drop": {"task_token": "none"},
        "flexcare-pretrained": {"freeze_encoder": False},
    }
    groups = {name: entry.group for name, entry in BY_NAME.items()}
    assert [name for name, group in groups.items() if group == "table3"] == ["flexcare-st", "flexcare"]
    assert (groups["flexcare-authors"], groups["flexcare-pretrained"]) == ("preset", "extension")
    assert sum(group == "ablation" for group in groups.values()) == 6
    assert [name for name, entry in BY_NAME.items() if not entry.multitask] == ["flexcare-st", "flexcare-pretrained"]
    assert set(PRESETS) == {"paper", "authors_code"}


def test_multitask_with_one_task_is_the_single_task_model():
    batch, _ = make_batch(PATTERNS)
    models = [build(name, (BINARY,)) for name in ("flexcare", "flexcare-st")]
    assert torch.equal(*(model(batch).logits for model in models))


@pytest.mark.parametrize("name", BY_NAME)
def test_number_of_parameters_with_the_six_tasks_of_the_paper(name):
    """1,538,228 by the sum of parts, and 1,565,236 with the released tables; the rest by what a variant lacks."""
    entry, width = BY_NAME[name], 128
    experts = 10 * (2 * width * width + 2 * width) + 3 * 10 * width
    transform = 2 * width * width + 2 * width
    expected = {
        "flexcare-authors": 1_565_236,
        "flexcare-a": 1_538_228 - experts + transform - 7 * width,
        "flexcare-b": 1_538_228 - experts + transform,
        "flexcare-c": 1_538_228 - experts + transform,
        "flexcare-no-task-token": 1_538_228 - 5 * width,
        "flexcare-no-task-token-drop": 1_538_228 - 6 * width - 10 * width - width * width - 52 * width,
    }
    model = entry.build(Dimensions(), SIX, entry.config())
    assert count_parameters(model) == expected.get(name, 1_538_228)


def test_d_is_the_full_model_with_another_loss():
    batch, _ = make_batch(PATTERNS)
    full, d = build("flexcare").train(), build("flexcare-d").train()
    outputs = []
    for model in (full, d):
        torch.manual_seed(1)
        outputs.append(model(batch))
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert set(outputs[0].aux) == set(full.aux_weights) == {"covariance", "balance"}
    assert set(outputs[1].aux) == set(d.aux_weights) == {"balance"}
    assert torch.equal(outputs[0].aux["balance"], outputs[1].aux["balance"])
    again = build("flexcare-d", beta=0.3).train()
    assert again.aux_weights == {"covariance": 0.3, "balance": 0.01}


def test_b_is_c_without_the_covariance_term():
    batch, _ = make_batch(PATTERNS)
    b, c = build("flexcare-b").train(), build("flexcare-c").train()
    assert torch.equal(b(batch).logits, c(batch).logits)
    assert b(batch).aux == {}
    assert set(c(batch).aux) == {"covariance"}
    assert set(build("flexcare-c", beta=0.0).train()(batch).aux) == set()


@pytest.mark.parametrize("name", ["flexcare-a", "flexcare-b", "flexcare-c"])
def test_one_transform_serves_all_tasks_and_tokens(name):
    model = build(name)
    assert isinstance(model.experts, OneForAll)
    assert not any(isinstance(module, MixtureOfExperts) for module in model.modules())
    batch, _ = make_batch(PATTERNS)
    task, tokens = model.encode(batch)
    complete = model(batch).diagnostics["complete"]
    for columns in ([0, 2], [2, 0]):
        mixed = model.experts(tokens[:, columns], task, complete[:, columns]).tokens
        torch.testing.assert_close(mixed, model.experts.transform(tokens[:, columns]) * complete[:, columns, None])


@pytest.mark.parametrize(("moe", "hidden"), [("shared", 16), ("wide", 32), ("identity", 0)])
def test_replacements_of_the_experts(moe, hidden):
    model = build("flexcare-b", moe=moe)
    linear = [module for module in model.experts.modules() if isinstance(module, torch.nn.Linear)]
    assert [layer.out_features for layer in linear] == ([hidden, SMALL.width] if hidden else [])
    batch, _ = make_batch(PATTERNS)
    assert model(batch).logits.isfinite().all()


@pytest.mark.parametrize("fused", ["modalities", "open_modalities"])
def test_a_averages_each_modality_and_separates_or_opens_them(fused):
    model = build("flexcare-a", fused=fused)
    batch, _ = make_batch(["ehr+cxr+note", "ehr", "cxr+note"])
    contents = [batch.ehr.values, batch.cxr.pixels, batch.note.values]
    for content in contents:
        content.requires_grad_()
    task, tokens = model.encode(batch)
    assert tokens.shape == (3, 3, SMALL.width)
    assert not tokens[~batch.present].any()
    for m in range(3):
        grads = torch.autograd.grad(tokens[0, m].square().sum(), contents, retain_graph=True, allow_unused=True)
        reached = [grad is not None and bool(grad.any()) for grad in grads]
        assert reached == [fused == "open_modalities" or k == m for k in range(3)]
    diagnostics = model(batch).diagnostics
    assert torch.equal(diagnostics["alpha"] > 0, batch.present)
    assert torch.equal(diagnostics["complete"], batch.present)
    assert set(model.train()(batch).aux) == set()
    assert all(grad.any() for grad in torch.autograd.grad(task.square().sum(), contents))


def test_a_token_mean_is_that_of_a_plain_transformer_over_the_modality_alone():
    """With one modality and the task token hidden from it, the mean output token needs no special token at all."""
    from dense_reference import dense_stack, embedded_tokens

    model = build("flexcare-a")
    batch, _ = make_batch(["ehr", "ehr+note", "cxr+note"])
    _, tokens = model.encode(batch)
    for row, sample in enumerate(embedded_tokens(model, batch)):
        for m, name in enumerate(("ehr", "cxr", "note")):
            if name in sample:
                expected = dense_stack(model.encoder.layers, sample[name]).mean(0)
                torch.testing.assert_close(tokens[row, m], expected, rtol=0, atol=1e-10)


def encoded(model: FlexCare, task: int) -> tuple[Tensor | None, Tensor]:
    batch, _ = make_batch(PATTERNS, task=task)
    return model.encode(batch)


def test_a_shared_task_token_tells_nothing_of_the_task_but_the_heads_do():
    model = build("flexcare-no-task-token")
    for one, other in zip(encoded(model, 0), encoded(model, 1), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(*(encoded(build(), task)[0] for task in (0, 1)))
    assert model.tasks.shape == (1, SMALL.width)
    batch, _ = make_batch(PATTERNS, task=1)
    assert model(batch).logits.shape == (7, 4)


def test_without_task_token_the_rest_stays_as_it_is():
    """The combinations never see the task token, so that they are the same without it."""
    full, without = build(), build("flexcare-no-task-token-drop")
    same_start(full, without)
    task, tokens = encoded(without, 1)
    assert task is None
    torch.testing.assert_close(tokens, encoded(full, 1)[1], rtol=0, atol=1e-12)
    names = dict(without.named_parameters())
    assert "tasks" not in names
    assert "experts.route_task" not in names
    assert without.heads[0].in_features == SMALL.width
    batch, _ = make_batch(PATTERNS)
    vector, _ = without.fusion(None, without.experts(tokens, None, without(batch).diagnostics["complete"]).tokens,
                               without(batch).diagnostics["complete"])  # fmt: skip
    torch.testing.assert_close(without(batch).logits, without.heads[0](vector))


# ------------------------------------------------------------------------------------------------- pretrained network


def pretrained(entry: ModelEntry = BY_NAME["flexcare-pretrained"], **options) -> tuple[FlexCare, FlexCare, Loaded]:
    source = build("flexcare", TWO, seed=3)
    model = build(entry.name, (Head(9, "multiclass", "note"),), seed=4, **options)
    return source, model, load_pretrained(model, source.state_dict())


def test_a_pretrained_network_takes_all_but_the_task():
    fresh = build("flexcare-pretrained", (Head(9, "multiclass", "note"),), seed=4).state_dict()
    source, model, loaded = pretrained()
    assert set(loaded.new) == {"tasks", "heads.0.weight", "heads.0.bias"}
    assert set(loaded.loaded) | set(loaded.new) == set(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(value, fresh[name] if name in loaded.new else source.state_dict()[name])
    assert all(parameter.requires_grad for parameter in model.parameters())
    batch, _ = make_batch(PATTERNS)
    torch.testing.assert_close(model.encode(batch)[1], source.encode(batch)[1], rtol=0, atol=0)
    assert model(batch).logits.shape == (7, 9)


def test_a_task_token_that_all_tasks_share_is_taken_along():
    source = build("flexcare", TWO, seed=3, task_token="shared")
    model = build("flexcare-pretrained", (Head(9, "multiclass", "note"),), seed=4, task_token="shared")
    assert set(load_pretrained(model, source.state_dict()).new) == {"heads.0.weight", "heads.0.bias"}
    assert torch.equal(model.tasks, source.tasks)


def test_the_encoder_of_a_pretrained_network_can_be_frozen():
    _, model, _ = pretrained(freeze_encoder=True)
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"tasks", "combinations", "experts", "fusion", "heads"}


def test_a_state_of_another_model_is_refused_and_nothing_is_loaded():
    other = build("flexcare-b").state_dict() | {"encoder.layers.0.qkv.bias": torch.zeros(3)}
    model = build("flexcare-pretrained", (BINARY,))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"no experts\.route_token.*and \d+ more"):
        load_pretrained(model, other)
    with pytest.raises(ValueError, match=r"encoder\.layers\.0\.qkv\.bias of shape \(3,\) for \(48,\)"):
        load_pretrained(model, build().state_dict() | {"encoder.layers.0.qkv.bias": torch.zeros(3)})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
