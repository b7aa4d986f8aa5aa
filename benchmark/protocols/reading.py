"""Reads protocol files: YAML without its traps, a file built upon another, faults listed together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from benchmark.errors import UserError
from benchmark.protocols.schema import Protocol
from benchmark.suggest import nearest, unknown

FOLDER = Path(__file__).resolve().parent
Model = TypeVar("Model", bound=BaseModel)


def shipped() -> dict[str, Path]:
    """The protocol files that come with the benchmark, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; `UserError` if it cannot be read, is no mapping or gives a key twice."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as fault:
        raise UserError(f"cannot read {path}: {fault}") from fault
    except yaml.YAMLError as fault:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(fault).split())}") from fault
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; allowed is a mapping of keys to values")
    return content


def is_file_name(protocol: str) -> bool:
    """Whether a protocol is given as a file rather than by name."""
    return protocol.endswith((".yaml", ".yml")) or "/" in protocol or "\\" in protocol


def protocol_values(protocol: str, folder: Path | None = None, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys and values of a protocol, given by name or file, laid over those of the protocol that its `base` names.

    Args:
        protocol: name of a shipped protocol, or a YAML file.
        folder: where a relative file name starts; the working directory by default.
        seen: files already being read, to find a circle.
    """
    if is_file_name(protocol):
        path = ((folder or Path.cwd()) / Path(protocol).expanduser()).resolve()
    elif protocol in shipped():
        path = shipped()[protocol]
    else:
        raise UserError(unknown("protocol", protocol, shipped()) + ", or the name of a YAML file")
    if path in seen:
        raise UserError(f"{path} is built upon itself (its `base` leads back to it)")
    values = read_yaml(path)
    values.setdefault("name", path.stem)
    return based(values, path.parent, (*seen, path))


def based(values: Mapping[str, Any], folder: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """`values` laid over the protocol named by its key `base`, if it has one."""
    own = {key: value for key, value in values.items() if key != "base"}
    if "base" not in values:
        return own
    if not isinstance(values["base"], str):
        raise UserError(f"base of a protocol is {values['base']!r}; allowed is the name of a protocol or a YAML file")
    return overlaid(protocol_values(values["base"], folder, seen), own)


def overlaid(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """`lower` with the values of `upper` in their place; mappings are merged, all else is replaced.

    >>> overlaid({"a": {"x": 1, "y": 2}, "b": [1]}, {"a": {"y": 3}, "b": [2]})
    {'a': {'x': 1, 'y': 3}, 'b': [2]}
    """
    merged = dict(lower)
    for key, value in upper.items():
        both = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = overlaid(merged[key], value) if both else value
    return merged


def parse_protocol(values: Mapping[str, Any], faults: list[str]) -> Protocol | None:
    """The protocol that `values` describe; otherwise None, and what is wrong is added to `faults`."""
    return parse_strictly(Protocol, values, "protocol", faults)


def parse_strictly(model: type[Model], values: Mapping[str, Any], where: str, faults: list[str]) -> Model | None:
    """`values` as a pydantic `model` without any coercion; otherwise None, and each fault is added to `faults`.

    Validation goes through JSON text: there, unlike with Python values, pydantic's strict mode takes a list for a tuple
    and an integer for a float, and still refuses text or a truth value for a number.
    """
    try:
        return model.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        found = error.errors(include_url=False)
        inner = {fault["loc"][:depth] for fault in found for depth in range(len(fault["loc"]))}
        # A list whose only entry is faulty counts as too short as well; that is no news.
        news = [fault for fault in found if fault["type"] != "too_short" or fault["loc"] not in inner]
        faults += [_sentence(model, where, fault) for fault in news]
        return None


def _sentence(model: type[BaseModel], where: str, fault: Mapping[str, Any]) -> str:
    path = [str(part) for part in fault["loc"]]
    place = ".".join([*([where] if where else []), *path])
    if fault["type"] == "extra_forbidden":
        allowed = _fields_at(model, path[:-1])
        close = nearest(path[-1], allowed)
        hint = f"; did you mean {' or '.join(repr(name) for name in close)}?" if close else "."
        return f"{place}: unknown key{hint} Allowed: {', '.join(allowed)}"
    if fault["type"] == "missing":
        return f"{place}: missing"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{place}: {message}"
    return f"{place}: {message[0].lower()}{message[1:]}; found {fault['input']!r}"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of the part of `model` that `path` leads to."""
    at: Any = model
    for part in path:
        if get_origin(at) is dict:
            at = get_args(at)[1]
            continue
        if not (isinstance(at, type) and issubclass(at, BaseModel)) or part not in at.model_fields:
            return []
        at = at.model_fields[part].annotation
    return list(at.model_fields) if isinstance(at, type) and issubclass(at, BaseModel) else []


class _Loader(yaml.SafeLoader):
    """YAML that reads 5e-4 as a number (YAML 1.1 takes it for text, and wants 5.0e-4) and refuses keys that are
    given twice or are no text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            fault = "is given twice" if isinstance(key, str) and key in seen else None
            if not isinstance(key, str):
                fault = f"is read as a {type(key).__name__}; allowed are texts, in quotes where need be"
            if fault:
                raise yaml.constructor.ConstructorError(None, None, f"key {str(key)!r} {fault}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
