"""Typed, closed configuration files: an unknown key is an error that names its nearest neighbour."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from gace.errors import InputError, nearest


class Closed(BaseModel):
    """Base of every configuration section: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


Model = TypeVar("Model", bound=BaseModel)


class _Once(yaml.SafeLoader):
    """Plain data, each key once: YAML forbids a second one, PyYAML drops the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML does, after a look at the keys as written (``<<`` may be overridden)."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' stands there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _plain(text: str) -> Any:
    """Numbers, strings, lists and mappings in YAML."""
    loader = _Once(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: the file is missing, unreadable, not YAML, or not a mapping.
    """
    path = Path(path)
    try:
        content = _plain(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold keys and values, not a {type(content).__name__}")
    return content


def load_config(path: str | Path, model: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Read ``path`` as ``model``, after applying ``key.sub=value`` overrides.

    Raises:
        InputError: one line that names the key, the file, and the nearest valid key.
    """
    content = read_yaml(path)
    for override in overrides:
        apply_override(content, override)
    return parse_config(content, model, source=str(path))


def parse_config(content: dict[str, Any], model: type[Model], source: str = "configuration") -> Model:
    """Validate a mapping as ``model``; see :func:`load_config` for the error raised."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{source}: {explain(error, model)}") from None


def apply_override(content: dict[str, Any], override: str) -> None:
    """Apply one ``a.b.c=value`` override in place; the value is read as YAML.

    Raises:
        InputError: the text has no ``=``, or a parent key holds a plain value.
    """
    dotted, separator, text = override.partition("=")
    if not separator or not dotted:
        raise InputError(f"--set needs key=value, got '{override}'")
    *parents, last = dotted.split(".")
    section = content
    for parent in parents:
        child = section.setdefault(parent, {})
        if not isinstance(child, dict):
            raise InputError(f"--set {override}: '{parent}' is a value, not a section")
        section = child
    try:
        section[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override}: {' '.join(str(error).split())}") from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a validation error as one line of prose."""
    problems = error.errors(include_url=False)
    problem = problems[0]
    if problem["type"] == "missing":
        # a misspelt required key is both missing and unknown: the unknown one tells more
        problem = next((one for one in problems if one["type"] == "extra_forbidden"), problem)
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        return f"unknown key '{location}'{nearest(name, keys_at(model, problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"missing key '{location}'"
    if problem["type"] == "union_tag_not_found":
        return f"missing key '{location}.{problem['ctx']['discriminator'].strip(chr(39))}'"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem.get("input")
    shown = f" (got {value!r})" if isinstance(value, (str, int, float, bool)) else ""
    return f"{location}: {message}{shown}" if location else message


def keys_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Names of the fields valid at ``location`` (a path of keys) of a configuration model."""
    current: set[type[BaseModel]] = {model}
    for part in location:
        following: set[type[BaseModel]] = set()
        for section in current:
            field = section.model_fields.get(str(part))
            following |= _models_in(field.annotation) if field is not None else set()
        # tags of discriminated unions and list indices name no field: stay where we are
        current = following or current
    return sorted({name for section in current for name in section.model_fields})


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    """All pydantic models that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    if get_origin(annotation) is None and not isinstance(annotation, types.UnionType):
        return set()
    found: set[type[BaseModel]] = set()
    for argument in get_args(annotation):
        found |= _models_in(argument)
    return found


__all__ = ["Closed", "apply_override", "explain", "keys_at", "load_config", "parse_config", "read_yaml"]
