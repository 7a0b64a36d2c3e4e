"""A configuration as the plain tree that config.json holds, and back."""

import dataclasses
import json
from typing import Any, get_type_hints

from lib.config import Config, TaskConfig

# the parts that decide the numbers
EXPERIMENT = ("recipe", "data", "task", "model", "adapter", "optim", "smoke")
# the parts that decide none
NO_NUMBERS = ("compute", "tracking", "limits")
# once fields of `data`, whatever the recipe
MOVED = ("prompt", "index", "index_passages", "context", "option_score", "swap")


def to_dict(config: Config) -> dict[str, Any]:
    return dataclasses.asdict(config)


def from_dict(tree: dict[str, Any], task: type[TaskConfig]) -> Config:
    """The inverse of `to_dict`; `task` is the recipe's kind of task options. Raises ValueError when a saved
    configuration has fields this version lacks."""
    kinds: dict[str, Any] = get_type_hints(Config) | {"task": task}
    values = _as_today(tree, task)
    parts = {name for name, kind in kinds.items() if dataclasses.is_dataclass(kind)} & values.keys()
    try:
        return Config(**values | {name: kinds[name](**_restored(values[name])) for name in parts})
    except TypeError as error:
        raise ValueError(f"configuration of another version: {error}") from error


def _as_today(tree: dict[str, Any], task: type[TaskConfig]) -> dict[str, Any]:
    """A tree from before tasks had options of their own: those that this task reads are moved there."""
    data = tree.get("data")
    if "task" in tree or not isinstance(data, dict):
        return tree
    own = {part.name: data[part.name] for part in dataclasses.fields(task) if part.name in data}
    return tree | {"data": {key: value for key, value in data.items() if key not in MOVED}, "task": own}


def _restored(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise TypeError(f"{values!r} is no part of a configuration")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def experiment(config: Config) -> dict[str, Any]:
    """What decides the numbers, as plain JSON values."""
    return json.loads(json.dumps({key: value for key, value in to_dict(config).items() if key in EXPERIMENT}))
