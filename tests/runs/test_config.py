"""What the user typed becomes a configuration, or a list of everything that is wrong with it."""

from __future__ import annotations

import json

import pytest
from harness_fakes import write_data

from benchmark.config import resolve
from benchmark.errors import UserError
from benchmark.protocols.reading import parse_protocol, protocol_values, read_yaml, shipped


def test_all_faults_are_told_together_with_near_names(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("""
        models: [flexcar, mt]
        tasks: ihn,phe
        sedes: [1]
        seeds: [1, 1]
        device: gpu
        protocol:
          base: quick
          dimensions: {hedas: 4}
          training: {learning_rate: "5e-4", epochs: {multitask: true}, task_weights: {los: -1}}
          models:
            flexcare: {expert: 5, beta: "x"}
            medfus: {}
    """)
    with pytest.raises(UserError) as caught:
        resolve({"data": str(tmp_path / "nowhere"), "workers": 0}, file)
    message = str(caught.value)
    for part in (
        "14 faults",
        "unknown key 'sedes'; did you mean 'seeds'?",
        "unknown model 'flexcar'; did you mean 'flexcare'",
        "unknown task 'ihn'; did you mean 'ihm'?",
        "seeds: [1, 1]",
        "device: input should be 'auto', 'cpu' or 'cuda'; found 'gpu'",
        "workers: input should be greater than or equal to 1; found 0",
        "nowhere does not exist",
        "protocol.dimensions.hedas: unknown key; did you mean 'heads'?",
        "protocol.training.learning_rate: input should be a valid number; found '5e-4'",
        "protocol.training.epochs.multitask: input should be a valid integer; found True",
        "protocol.training.task_weights.los: input should be greater than or equal to 0; found -1",
        "protocol.models.flexcare.expert: unknown option 'expert'; did you mean 'experts'",
        "protocol.models.flexcare.beta: input should be a valid number; found 'x'",
        "unknown model 'medfus'; did you mean 'medfuse'?",
    ):
        assert part in message


def test_command_line_wins_over_file_and_file_over_protocol(tmp_path):
    (tmp_path / "sub").mkdir()
    write_data(tmp_path / "sub" / "data")
    file = tmp_path / "sub" / "mine.yaml"
    file.write_text("""
        models: flexcare, medfuse
        seeds: 3
        data: data
        protocol: {training: {learning_rate: 1e-3}, models: {flexcare: {experts: 4}}}
    """)
    config = resolve({"seeds": "7,8", "protocol": "quick"}, file)
    assert config.models == ("medfuse", "flexcare"), "models come in the order of the registry"
    assert config.seeds == (7, 8)
    assert config.data.path == tmp_path / "sub" / "data", "file names start at the folder of the file they stand in"
    assert config.protocol.training.learning_rate == 1e-3
    assert config.protocol.training.batch_size == 32, "what is not given stays as in the protocol"
    assert config.protocol.name == "quick+mine", "a changed protocol does not go by the name of the original"
    assert config.model_options["flexcare"].experts == 4


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"seeds": ""}, "seeds: none is named. Allowed: whole numbers from 0 to 4294967295"),
        ({"seeds": "-1"}, "seeds: -1 is no seed. Allowed: whole numbers from 0"),
        ({"models": ","}, "models: none is named. Allowed: names of models or groups"),
        ({"models": {"mt": {"fusion_start": 2}}}, "models: options of models stand under protocol"),
    ],
)
def test_lists_that_cannot_be_meant(options, refusal):
    with pytest.raises(UserError) as caught:
        resolve(options)
    assert str(caught.value).startswith(refusal)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tasks": []}, r"tasks: .*found \[\]"),
        ({"tasks": {"ihm": {"samples": {"train": "many", "val": 1, "test": 1}}}}, "tasks.ihm.samples.train: .*'many'"),
        ({"modalities": None}, "modalities: "),
        ({"fingerprint": 3}, "fingerprint: "),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path, changes, reason):
    file = write_data(tmp_path / "data") / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(UserError, match=rf"manifest\.json is damaged \({reason}.*prepare the data set again"):
        resolve({"data": str(file.parent)})


def test_defaults(tmp_path):
    assert resolve({}).protocol.name == "quick"
    config = resolve({"data": str(write_data(tmp_path / "data"))})
    assert config.protocol.name == "paper"
    assert config.tasks == ("ihm", "los", "dec", "phe", "rea", "dia")
    with pytest.raises(UserError, match="'drg' is not possible on toy cohort: there are no notes"):
        resolve({"data": str(tmp_path / "data"), "tasks": "ihm,drg"})
    with pytest.raises(UserError, match="looks like raw MIMIC-IV"):
        (tmp_path / "raw" / "hosp").mkdir(parents=True)
        resolve({"data": str(tmp_path / "raw")})


def test_the_paper_protocol_is_the_published_one():
    protocol = parse_protocol(protocol_values("paper"), faults := [])
    assert not faults
    assert (protocol.dimensions.width, protocol.dimensions.layers, protocol.dimensions.heads) == (128, 4, 2)
    assert (protocol.training.batch_size, protocol.training.learning_rate) == (32, 5e-4)
    assert (protocol.training.epochs.multitask, protocol.training.epochs.singletask) == (25, 40)
    assert protocol.seeds == (40, 42, 44, 46, 48)
    assert list(protocol.training.task_weights.values()) == [0.2, 0.5, 0.2, 1.0, 0.2, 0.2, 1.0]
    assert protocol.note_encoder == "dmis-lab/biobert-base-cased-v1.2"


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_protocol_is_valid_and_named_after_its_file(name):
    protocol = parse_protocol(protocol_values(name), faults := [])
    assert not faults
    assert protocol.name == name


def test_a_protocol_file_can_build_upon_another_but_not_upon_itself(tmp_path):
    (tmp_path / "wide.yaml").write_text("base: quick\ndimensions: {width: 64}\n")
    protocol = resolve({"protocol": str(tmp_path / "wide.yaml")}).protocol
    assert (protocol.name, protocol.dimensions.width, protocol.dimensions.layers) == ("wide", 64, 2)
    (tmp_path / "loop.yaml").write_text("base: loop.yaml\n")
    with pytest.raises(UserError, match="built upon itself"):
        resolve({"protocol": str(tmp_path / "loop.yaml")})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- a\n- b", "holds a list"),
        ("a: 1\na: 2", "'a' is given twice"),
        ("a: [1", "not valid YAML"),
        ("a: {2024-01-01: 1}", "'2024-01-01' is read as a date; allowed are texts"),
        ("no: 1", "is read as a bool"),
    ],
)
def test_yaml_that_cannot_be_meant(tmp_path, text, reason):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=reason):
        read_yaml(file)


def test_yaml_numbers_without_a_point_are_numbers(tmp_path):
    file = tmp_path / "numbers.yaml"
    file.write_text("a: 5e-4\nb: -2E+3\nc: 12\nd: e5\n")
    assert read_yaml(file) == {"a": 5e-4, "b": -2000.0, "c": 12, "d": "e5"}
