"""Every option of every baseline: it builds, keeps the invariants that hold for all models, and changes something."""

from __future__ import annotations

import dataclasses
import typing
from contextlib import nullcontext

import pytest
import torch
from baseline_variants import BY_NAME, MIXED, VARIANTS, build_variant, name_of
from random_batches import BINARY, PATTERNS, SMALL, collate, make_batch, make_samples

from baselines import ENTRIES
from benchmark.config import build_options
from models.contract import Head

variants = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=[name_of(*variant) for variant in VARIANTS])


def total(model, batch):
    output = model(batch)
    readouts = sum((readout.logits.square() * readout.weight[:, None]).sum() for readout in output.readouts)
    return output.logits.square().sum() + readouts + sum(output.aux.values())


def test_all_options_of_all_baselines_are_tried():
    for entry in ENTRIES:
        tried = {option for name, options in VARIANTS if name == entry.name for option in options}
        named = {field.name for field in dataclasses.fields(entry.config)}
        numbers = {"dropout", "stabiliser", "threshold"}  # have tests of their own
        assert entry.fits or named - numbers <= tried, entry.name


@variants
def test_an_option_changes_predictions_or_losses(name, options):
    head = Head(1, "binary", "cxr") if options == {"order": "fixed"} else BINARY
    patterns = ("cxr+note", "ehr+cxr", "ehr+cxr+note") if head.primary == "cxr" else MIXED
    batch, _ = make_batch(patterns)
    results = []
    for chosen in ({}, options):
        model = build_variant(name, chosen, head)
        in_eval = model.eval()(batch).logits
        model.train()
        if "pretrain_epochs" in chosen:
            model.begin_epoch(1)
        torch.manual_seed(1)
        results.append((in_eval, total(model, batch)))
    assert not torch.equal(results[0][0], results[1][0]) or not torch.equal(results[0][1], results[1][1])


@variants
def test_a_variant_is_finite_for_each_pattern_alone_and_its_parameters_all_learn(name, options):
    model = build_variant(name, options)
    for pattern in PATTERNS:
        if options.get("readout") != "primary" or "ehr" in pattern:
            batch, _ = make_batch([pattern])
            assert model.eval()(batch).logits.isfinite().all()
            assert total(model.train(), batch).isfinite()
    model.zero_grad()
    total(model.train(), make_batch(("ehr+cxr+note", "ehr") * 8)[0]).backward()
    unread = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    if "pretrain_epochs" in options:
        assert all(parameter.startswith("unimodal_heads") for parameter in unread)
    elif options.get("readout") == "primary":  # side streams are not read in their last layer, class tokens never
        assert all(parameter.startswith(("streams.1.2.", "streams.2.2.")) for parameter in unread)
    else:
        assert {parameter for parameter in unread if parameter != "bottlenecks"} == set()


@variants
def test_a_variant_predicts_alone_what_it_predicts_in_company(name, options):
    model = build_variant(name, options).eval()
    samples = make_samples(MIXED)
    together = model(collate(samples)).logits
    alone = torch.cat([model(collate([sample])).logits for sample in samples])
    independent = not getattr(model, "couples_samples", False)
    assert torch.allclose(alone, together, rtol=0, atol=1e-10) == independent


@variants
def test_a_variant_stays_on_its_device_and_never_reads_a_value(name, options, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # unknown to the meta device
    batch, _ = make_batch(("ehr+cxr+note", "ehr", "ehr+note"), dtype=torch.float32)
    on_meta = dataclasses.replace(
        batch,
        ehr=batch.ehr.with_values(batch.ehr.values.to("meta")),
        cxr=dataclasses.replace(batch.cxr, pixels=batch.cxr.pixels.to("meta")),
        note=batch.note.with_values(batch.note.values.to("meta")),
        present=batch.present.to("meta"),
        sample=batch.sample.to("meta"),
    )
    model = BY_NAME[name].build(SMALL, [BINARY], BY_NAME[name].config(**options)).to("meta")
    if getattr(model, "support_samples", 0):  # an own way to predict
        model.eval().remember(on_meta)
        assert total(model, on_meta).device.type == "meta"
    loss = total(model.train(), on_meta)
    loss.backward()
    assert loss.device.type == "meta"


@variants
def test_a_variant_in_bfloat16_is_close_to_single_precision(name, options):
    torch.manual_seed(0)
    model = BY_NAME[name].build(SMALL, [BINARY], BY_NAME[name].config(**options))
    batch, _ = make_batch(MIXED, dtype=torch.float32)
    if getattr(model, "support_samples", 0):
        model.eval().remember(batch)
    exact = model.eval()(batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(batch).logits
        total(model.train(), batch).backward()
    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.05)


def choices():
    """(entry, option, allowed values) of every option that is a choice."""
    for entry in ENTRIES:
        for option, kind in typing.get_type_hints(entry.config).items():
            if typing.get_origin(kind) is typing.Literal:
                yield entry, option, typing.get_args(kind)


@pytest.mark.parametrize(
    ("entry", "option", "allowed"), list(choices()), ids=lambda part: getattr(part, "name", str(part))
)
def test_an_unknown_choice_is_refused_with_the_allowed_ones(entry, option, allowed):
    with pytest.raises(ValueError, match=f"{option} 'nonsense'; allowed are {', '.join(allowed)}"):
        entry.config(**{option: "nonsense"})
    build_options(entry, {option: "nonsense"}, faults := [])
    assert len(faults) == 1
    assert all(value in faults[0] for value in (option, "nonsense", *allowed))


@pytest.mark.parametrize(
    ("name", "options", "fault"),
    [
        ("medfuse", {"series_layers": 0}, "series_layers 0; allowed is 1 or more"),
        ("medfuse", {"pretrain_epochs": -1}, "pretrain_epochs -1; allowed is 0 or more"),
        ("mmf", {"bottlenecks": -1}, "bottlenecks -1"),
        (
            "multimodn",
            {"order": ("ehr", "ehr", "note")},
            "order ehr, ehr, note; allowed is each of ehr, cxr, note once",
        ),
        ("multimodn", {"state_penalty": -1.0}, "state_penalty -1.0"),
        ("m3care", {"support_samples": 0}, "support_samples 0"),
        ("boosted-trees", {"leaves": 1}, "leaves 1; allowed is 2 or more"),
        ("boosted-trees", {"feature_share": 0.0}, "feature_share 0.0; a share is above 0 and at most 1"),
        ("boosted-trees", {"learning_rate": 0.0}, "learning_rate 0.0; it must be positive"),
    ],
)
def test_impossible_values_are_refused(name, options, fault):
    with pytest.raises(ValueError, match=fault):
        BY_NAME[name].config(**options)


@pytest.mark.parametrize("name", ["mt", "mmf"])
def test_fusion_starts_at_a_layer_that_there_is(name):
    with pytest.raises(ValueError, match="fusion_start 3; allowed are 0 to 2 with 3 layers"):
        BY_NAME[name].build(SMALL, [BINARY], BY_NAME[name].config(fusion_start=3))


def test_an_order_survives_the_way_through_a_protocol_file():
    options = build_options(BY_NAME["multimodn"], {"order": ["cxr", "ehr", "note"]}, faults := [])
    assert faults == []
    assert options.order == ("cxr", "ehr", "note")
