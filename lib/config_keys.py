"""A configuration by its dotted keys: {"optim.lr": 1e-4}"""

import dataclasses
import difflib
from typing import Any, get_type_hints

from lib.config import Config


def leaves(config: Any) -> dict[str, Any]:
    """Dotted key -> value of every field of a tree, dictionaries left whole: {"optim.lr": 1e-4}"""
    by_key: dict[str, Any] = {}
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            by_key |= {f"{name}.{inner}": item for inner, item in leaves(value).items()}
        else:
            by_key[name] = value
    return by_key


def types(config: Any) -> dict[str, Any]:
    """Dotted key -> type of every field of a tree."""
    by_key: dict[str, Any] = {}
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            by_key |= {f"{name}.{inner}": item for inner, item in types(value).items()}
        else:
            by_key[name] = kind
    return by_key


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """The same configuration with other values at these dotted keys."""
    for key, value in values.items():
        part, _, name = key.rpartition(".")
        if part:
            name, value = part, dataclasses.replace(getattr(config, part), **{name: value})
        config = dataclasses.replace(config, **{name: value})
    return config


def flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """{"optim": {"lr": 1}} -> {"optim.lr": 1}"""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": item for inner, item in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def nearest(word: str, names: list[str]) -> str:
    """', did you mean X?' or the whole list of names."""
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "there is: " + ", ".join(sorted(names))
