"""JSON values against the types of the configuration's fields."""

import math
import typing
from types import NoneType
from typing import Any, Literal


def fits(value: Any, kind: Any) -> bool:
    """Is this JSON value one of that type?"""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return any(value == item and type(value) is type(item) for item in inside)
    if origin is tuple:
        return isinstance(value, list) and all(fits(item, inside[0]) for item in value)
    if inside and origin is not dict:  # a union
        return any(fits(value, item) for item in inside)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return kind in (int, str, bool, NoneType) and type(value) is kind


def restored(value: Any, kind: Any) -> Any:
    """As the configuration keeps it."""
    if isinstance(value, list):
        return tuple(value)
    takes = typing.get_args(kind) or (kind,)
    return float(value) if type(value) is int and float in takes and int not in takes else value


def in_words(kind: Any) -> str:
    """A type in words."""
    inside = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, inside))
    if typing.get_origin(kind) is tuple:
        return f"list of {in_words(inside[0])}"
    if inside and typing.get_origin(kind) is not dict:
        return " or ".join(map(in_words, inside))
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "null"}
    return names.get(kind, "value that can be searched")
