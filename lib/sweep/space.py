"""What a sweep searches: a file in wandb's own sweep form -> parameters, checked against the configuration.

Everything wrong with the file is said at once, before anything runs.
"""

import itertools
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lib import recipe as recipes
from lib.config import Config
from lib.config_keys import leaves, nearest, types, with_values
from lib.config_tree import NO_NUMBERS
from lib.contradictions import validate
from lib.recipe import Recipe
from lib.sweep import kinds

SECTIONS = ("method", "metric", "parameters", "name", "description", "run_cap")  # of those that wandb knows
WORDS = ("distribution", "min", "max", "values", "value")
DISTRIBUTIONS = ("constant", "categorical", "int_uniform", "uniform", "log_uniform_values")
# Scores are compared between trials, so all of them must be on the same rows.
ROWS = ("data.data", "data.revision", "data.sample_rows", "data.max_rows", "data.max_rejected")
# And a loss for each token must be on the same tokens.
TOKENS = ("task.letters_only", "task.chat")
SMOKE_SAYS = (
    *("data.max_length", "model.model", "model.init", "adapter.quantize"),
    *("optim.batch", "optim.max_steps", "optim.epochs", "optim.eval_every", "optim.precision"),
)
MOST_COMBINATIONS = 2000  # looked at for contradictions; of more, so many drawn ones


@dataclass(frozen=True)
class Parameter:
    """A field of the configuration, and either its values or the ends of its range."""

    name: str
    """As the file says it: `lr` or `optim.lr`."""
    key: str
    type: Any
    """Of the field."""
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    kind: Literal["values", "whole", "linear", "log"] = "values"

    @property
    def count(self) -> int | None:
        """How many values there are; None: as many as one likes."""
        if self.kind == "whole":
            return int(self.high) - int(self.low) + 1
        return len(self.values) or None

    def edges(self) -> tuple[Any, ...]:
        return self.values or (self.low, self.high)


@dataclass(frozen=True)
class Space:
    """What is searched, and by which score."""

    tree: dict[str, Any]
    """The file as it is sent to wandb."""
    metric: str
    goal: Literal["minimize", "maximize"]
    parameters: tuple[Parameter, ...]
    trials: int | None
    """The file's run_cap."""

    @property
    def size(self) -> int | None:
        """How many settings there are; None: as many as one likes."""
        counts = [item.count for item in self.parameters]
        return None if None in counts else math.prod(count for count in counts if count is not None)

    def apply(self, config: Config, values: dict[str, Any]) -> Config:
        """`values` by the parameters' names."""
        return with_values(config, {item.key: values[item.name] for item in self.parameters})


def default_tree(config: Config) -> dict[str, Any]:
    """Without a file: the learning rate, from a tenth to ten times what the configuration says."""
    ends = {"min": config.optim.lr / 10, "max": config.optim.lr * 10}
    return {"method": "bayes", "parameters": {"lr": {"distribution": "log_uniform_values", **ends}}}


def read(path: str | None, config: Config) -> Space:
    """The space in this JSON file. Raises ValueError with every problem."""
    recipe = recipes.load(config.recipe)
    tree = default_tree(config) if path is None else _load(Path(path))
    problems: list[str] = []
    goal = _metric(tree, recipe, problems.append)
    _sections(tree, problems.append)
    specs = tree.get("parameters")
    if not isinstance(specs, dict) or not specs:
        problems.append('"parameters" must name at least one, {"lr": {"min": 1e-5, "max": 1e-3}} say')
        specs = {}
    parameters = tuple(_parameters(specs, types(config), problems.append))
    if path is not None and not config.smoke:
        problems += _given_twice(parameters, config, recipe)
    if config.smoke:
        parameters = tuple(item for item in parameters if item.key not in SMOKE_SAYS)
        if not parameters and not problems:
            return read(None, config)  # nothing is left that a smoke run lets go
    space = Space(tree, recipe.metrics[0].name, goal, parameters, tree.get("run_cap"))
    if not problems:
        problems += contradictions(space, config)
    if problems:
        raise ValueError("\n".join(f"--space {path or '(default)'}: {problem}" for problem in problems))
    return space


def _load(path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{', '.join(sorted(doubled))} stands there twice")
        return dict(pairs)

    try:
        tree = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except OSError as error:
        raise ValueError(f"--space {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # also what is no UTF-8
        raise ValueError(f"--space {path} is no JSON as it should be: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f'--space {path} must be an object, {{"parameters": {{...}}}}')
    return tree


def _sections(tree: dict[str, Any], say: Callable[[str], None]) -> None:
    for name in tree:
        if name not in SECTIONS:
            say(f"{name!r} is not used here; {nearest(name, list(SECTIONS))}")
    if tree.get("method") != "bayes":
        say(f"method is {tree.get('method')!r}; there is one, 'bayes'")
    cap = tree.get("run_cap")
    if cap is not None and not (kinds.fits(cap, int) and cap > 0):
        say(f"run_cap is {cap!r}; it must be a whole number above 0")


def _metric(tree: dict[str, Any], recipe: Recipe, say: Callable[[str], None]) -> Any:
    """The goal. What selects the best checkpoint of a run also selects the best run."""
    name, goal = recipe.metrics[0].name, {"lower": "minimize", "higher": "maximize"}[recipe.better]
    metric = tree.get("metric", {})
    asked = metric if isinstance(metric, dict) else {"name": metric}
    for word in asked.keys() - {"name", "goal"}:
        say(f"metric: {word!r} is not used here; {nearest(word, ['name', 'goal'])}")
    if asked.get("name", name) not in (name, f"validation/{name}"):
        say(f"metric name is {asked['name']!r}; this recipe's runs are selected by {name!r}")
    if asked.get("goal", goal) != goal:
        say(f"metric goal is {asked['goal']!r}; {name} wants {goal!r}")
    return goal


def _parameters(
    tree: dict[str, Any], known: dict[str, Any], say: Callable[[str], None]
) -> Iterator[Parameter]:
    """The good ones; the others are said."""
    by_word = {key.rpartition(".")[2]: key for key in known}
    seen: dict[str, str] = {}
    for name, spec in tree.items():
        word = name.replace("-", "_")
        key = word if word in known else by_word.get(word)
        if key is None:
            say(
                f"unknown parameter {name!r}; {nearest(word, [*by_word, *(k for k in known if '.' in word)])}"
            )
        elif key in seen:
            say(f"{seen[key]!r} and {name!r} are the same field; leave one out")
        elif problem := _unsearchable(key):
            say(f"{name}: {problem}")
        else:
            seen[key] = name
            try:
                yield _with_spec(Parameter(name, key, known[key]), spec)
            except ValueError as error:
                say(f"{name}: {error}")


def _unsearchable(key: str) -> str | None:
    if key.partition(".")[0] in NO_NUMBERS or key in ("recipe", "smoke"):
        return "it decides no number, so there is nothing to search; give it as a flag"
    if key in ROWS:
        return "trials would be scored on different rows; give it as a flag"
    if key in TOKENS:
        return "trials would be scored on different tokens; give it as a flag"
    return None


def _with_spec(item: Parameter, spec: Any) -> Parameter:
    """With its values or its range. Raises ValueError with the first thing wrong."""
    if not isinstance(spec, dict):
        raise ValueError(f'it is {spec!r}; write {{"value": ...}}, {{"values": [...]}} or {{"min", "max"}}')
    form = _form(spec)
    if form in ("constant", "categorical"):
        values = [spec["value"]] if form == "constant" else spec["values"]
        if not isinstance(values, list) or not values:
            raise ValueError(f"values is {values!r}; it must be a list of at least one")
        for value in values:
            if not kinds.fits(value, item.type):
                raise ValueError(f"{json.dumps(value)} is no {kinds.in_words(item.type)}")
        values = [kinds.restored(value, item.type) for value in values]
        if doubled := [value for value in values if values.count(value) > 1]:
            raise ValueError(f"{doubled[0]!r} stands there twice")
        return replace(item, values=tuple(values))
    return _with_range(item, form, spec["min"], spec["max"])


def _form(spec: dict[str, Any]) -> str:
    """The distribution, as wandb infers it where it is not named. Raises ValueError when words are lacking or
    too many."""
    given = spec.get("distribution")
    if given is not None and given not in DISTRIBUTIONS:
        raise ValueError(f"distribution {given!r}; there is: {', '.join(DISTRIBUTIONS)}")
    for word in spec:
        if word not in WORDS:
            raise ValueError(f"{word!r} is not used here; {nearest(word, list(WORDS))}")
    forms = {("value",): "constant", ("values",): "categorical", ("max", "min"): "range"}
    words = tuple(sorted(spec.keys() - {"distribution"}))
    form = forms.get(words)
    if form is None:
        raise ValueError(f"it has {', '.join(words) or 'nothing'}; it needs value, or values, or min and max")
    if form == "range":
        whole = all(kinds.fits(spec[end], int) for end in words)
        form = given if given in DISTRIBUTIONS[2:] else "int_uniform" if whole else "uniform"
    if given not in (None, form):
        raise ValueError(f"distribution {given} does not go with {' and '.join(words)}")
    return str(form)


def _with_range(item: Parameter, form: str, low: Any, high: Any) -> Parameter:
    for end in (low, high):
        if not kinds.fits(end, float) or (form == "int_uniform" and not kinds.fits(end, int)):
            raise ValueError(f"{json.dumps(end)} is no end of a range of {form}")
    if low >= high:
        raise ValueError(f'the range from {low} to {high} is empty; one value is written {{"value": {low}}}')
    if form == "log_uniform_values" and low <= 0:
        raise ValueError(f"min is {low}; a logarithm needs it above 0")
    if not kinds.fits(low if form == "int_uniform" else 0.5, item.type):
        whole = "; int_uniform gives whole ones" if kinds.fits(1, item.type) else ""
        raise ValueError(f"a range of {form} does not fit, it takes a {kinds.in_words(item.type)}{whole}")
    if form == "int_uniform":
        return replace(item, low=low, high=high, kind="whole")
    scale: Literal["log", "linear"] = "log" if form.startswith("log") else "linear"
    return replace(item, low=float(low), high=float(high), kind=scale)


def _given_twice(parameters: tuple[Parameter, ...], config: Config, recipe: Recipe) -> list[str]:
    given, own = leaves(config), leaves(recipe.config)
    return [
        f"{item.name} is searched over, and given as {given[item.key]} on the command line; leave one out"
        for item in parameters
        if given[item.key] != own[item.key]
    ]


def contradictions(space: Space, config: Config) -> list[str]:
    """Combinations of values (of a range: its ends) that the configuration refuses; of many problems the
    first."""
    edges = [item.edges() for item in space.parameters]
    if math.prod(map(len, edges)) <= MOST_COMBINATIONS:
        combinations = itertools.product(*edges)
    else:
        draw = random.Random(0)
        combinations = (tuple(map(draw.choice, edges)) for _ in range(MOST_COMBINATIONS))  # type: ignore[assignment]
    for values in combinations:
        chosen = dict(zip((item.name for item in space.parameters), values, strict=True))
        try:
            validate(space.apply(config, chosen))
        except ValueError as error:
            return [f"{', '.join(f'{name} {value}' for name, value in chosen.items())}: {error}"]
    return []


def taken(item: Parameter, value: Any) -> Any:
    """`value` as the configuration keeps it. Raises ValueError when it is none of this parameter's."""
    kept = kinds.restored(value, item.type) if kinds.fits(value, item.type) else None
    if item.values:
        if kept not in item.values:
            raise ValueError(f"{item.name} is {value!r}; it must be one of {item.values}")
    elif kept is None or not item.low <= kept <= item.high:
        raise ValueError(f"{item.name} is {value!r}; it must be from {item.low} to {item.high}")
    return kept
