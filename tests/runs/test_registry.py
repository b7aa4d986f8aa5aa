"""Models of other packages: taken in, left out with a warning, or refused with the reason."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from benchmark import registry
from benchmark.errors import UserError
from models.contract import ModelEntry


@dataclass(frozen=True)
class Options:
    depth: int = 2


@dataclass
class Mutable:
    depth: int = 2


ENTRY = ModelEntry("theirs", "Theirs", Options, lambda dimensions, heads, config: None, "a paper")


@pytest.fixture
def plugin(monkeypatch):
    """Installs `entry` as the entry point `theirs` of another package."""

    def install(entry):
        module = ModuleType("their_package")
        module.ENTRY = entry
        monkeypatch.setitem(sys.modules, "their_package", module)
        point = EntryPoint("theirs", "their_package:ENTRY", registry.GROUP)
        monkeypatch.setattr(registry, "entry_points", lambda group: [point])
        registry.load.cache_clear()

    yield install
    monkeypatch.undo()
    registry.load.cache_clear()


def test_table_order_and_a_plugin_at_the_end(plugin):
    plugin(ENTRY)
    names = list(registry.models())
    paper = ["medfuse", "mt", "m3care", "mmf", "multimodn", "flexcare-st", "flexcare"]
    assert [name for name in names if name in paper] == paper
    assert names[-1] == "theirs"
    assert registry.plugin_version("theirs") is not None
    assert registry.plugin_version("flexcare") is None


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (replace(ENTRY, name="flexcare"), "exists already"),
        (replace(ENTRY, name="Their Model"), "lower-case letters"),
        (replace(ENTRY, name="ablations"), "stands for a group"),
        (replace(ENTRY, group="mine"), "group of model 'theirs' is 'mine'; allowed are table3"),
        (replace(ENTRY, config=Mutable), "not frozen"),
        (replace(ENTRY, config=dict), "must be a frozen dataclass"),
        (replace(ENTRY, fits=True, multitask=True), "such a model has one task"),
        (replace(ENTRY, reads=("ehr", "labs")), "reads .*allowed are some of ehr, cxr, note"),
        ("no entry", "allowed is a models.contract.ModelEntry"),
    ],
)
def test_a_malformed_plugin_is_left_out_with_a_warning_and_refused_when_asked_for(plugin, entry, reason):
    plugin(entry)
    with pytest.warns(UserWarning, match=f"entry point 'theirs'.*{reason}"):
        assert "theirs" not in registry.models()
    with pytest.raises(UserError, match=f"'theirs' is installed by another package but cannot be used.*{reason}"):
        registry.get("theirs")


def test_a_plugin_whose_import_fails_does_not_stop_the_others(plugin, monkeypatch):
    plugin(ENTRY)
    monkeypatch.setitem(sys.modules, "their_package", None)
    with pytest.warns(UserWarning, match="its import raised"):
        assert "flexcare" in registry.models()


def test_groups_select_models_in_table_order(plugin):
    plugin(replace(ENTRY, group="ablation"))
    assert "theirs" not in registry.selected(["all"])
    assert registry.selected(["ablations", "flexcare"])[-1] == "theirs"
    assert registry.selected(["flexcare", "medfuse"]) == ("medfuse", "flexcare")
    assert set(registry.selected(registry.GROUP_NAMES)) == set(registry.models())
    assert registry.selection_fault("ablations") is None
    assert "groups: all, ablations" in registry.selection_fault("ablation-x")
