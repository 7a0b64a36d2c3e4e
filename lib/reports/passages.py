"""The texts of an example, by name, for people who look at what a model has read."""

from collections.abc import Iterator
from string import ascii_uppercase
from typing import Any

from lib.recipe import Example

# what an example holds beside the texts that a model reads
NO_TEXT = {"id", "group", "label", "letters", "target", "notes", "passage_id", "retrieved"}
NO_TEXT |= {"gold", "sources", "short"}


def passages_of(example: Example) -> Iterator[tuple[str, list[str]]]:
    """(name, turns) of every text in an example: the context, text A, text B ..."""
    values: dict[str, Any] = {key: value for key, value in example.items() if key not in NO_TEXT}
    for name, value in values.items():
        if isinstance(value, str):
            yield name, [value]
        elif name == "fields":
            yield from value.items()
        elif name == "options":
            letters = example.get("letters", ascii_uppercase)
            yield from ((f"option {letter}", [text]) for letter, text in zip(letters, value, strict=False))
        elif all(isinstance(turn, str) for turn in value):
            yield name, value
        else:
            for place, turns in enumerate(value):
                yield f"{name.removesuffix('s')} {chr(ord('A') + place)}", turns
