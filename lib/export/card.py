"""The model card: where the weights come from, what they scored, how to load them.

Its YAML front matter is written by the hub's own library; texts from elsewhere are escaped. Names that mean
nothing outside this machine (a local base, a local file) are left out of the front matter, which takes hub
ids only, and of the card all but their last part.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.answers.intervals import of_value
from lib.base import hub
from lib.base.contents import Record, Summary, Value
from lib.base.files import read_json, write_json
from lib.config import Config
from lib.config_keys import flatten
from lib.config_tree import NO_NUMBERS, to_dict
from lib.corpus.splits import side_of
from lib.data import text
from lib.evaluation.trained import TrainedRun
from lib.export.check import is_adapter, open_task
from lib.models import adapters, backbone
from lib.recipe import Example, Recipe

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Origin:
    """A model or data set that this one was made from."""

    name: str
    hub_id: str | None
    licence: str


def base_of(config: Config) -> Origin:
    """The base model; its licence as its own page or folder names it."""
    name = config.model.model
    if name == "tiny" or config.model.init == "random":
        return Origin(f"random weights in the shape of {Path(name).name}", None, "needs none")
    if name == "minilm":
        return Origin(MINILM, MINILM, "apache-2.0")
    if Path(name).exists():
        return Origin(f"{Path(name).name} (a local folder)", None, _licence_in(Path(name)) or UNKNOWN)
    return Origin(name, name, hub.licence_of(name) or UNKNOWN)


def _licence_in(folder: Path) -> str | None:
    """What the front matter of a folder's README.md says."""
    try:
        lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.strip() == "---":
            break
        if match := re.fullmatch(r"license:\s*([\w.+-]+)\s*", line):
            return match[1]
    return None


def data_of(config: Config, record: Record) -> Origin:
    """The data set and the licence that the run recorded for it."""
    name, licence = config.data.data, record.get("licence", UNKNOWN)
    if name == "sample":
        return Origin("generated sample rows", None, licence)
    if revision := record.get("revision"):
        return Origin(f"{name} at commit {revision[:12]}", hub.parts_of(name)[0], licence)
    files = ", ".join(f"{file} (sha256 {digest[:12]})" for file, digest in record.get("files", {}).items())
    return Origin(f"local files: {files}", None, f"{UNKNOWN} (the recipe's own data: {licence})")


def name_base(folder: Path, config: Config) -> None:
    """Write the base's public name into an adapter's configuration instead of a path of this machine."""
    path, base = folder / "adapter_config.json", base_of(config)
    write_json(
        path, read_json(path) | {"base_model_name_or_path": base.hub_id or Path(config.model.model).name}
    )


def example(run: TrainedRun, export: Path) -> str:
    """The lines of the card that load the model, ready to be run on this machine."""
    values = _example_values(run, export)
    return str(_templates().get_template("example.py.jinja").render(**values | {"source": values["here"]}))


def _templates() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"words": words, "code": code, "literal": repr, "interval": _interval}
    return environment


def render(run: TrainedRun, export: Path, full: bool, checked: Any) -> str:
    """The text of README.md."""
    folder, config, recipe = run.folder, run.config, run.recipe
    record = folder.record()
    path = folder.path / "scores.json"
    splits = read_json(path)["splits"] if path.exists() else {}
    base, data = base_of(config), data_of(config, record)
    adapter = is_adapter(export)
    page = (
        _templates()
        .get_template("card.md.jinja")
        .render(
            front=front_matter(run, base, data, splits, adapter),
            run=folder.path.name,
            recipe_name=config.recipe,
            base=base,
            data=data,
            splits=splits,
            better=recipe.better,
            record=record,
            settings=_settings(config),
            merged=bool(config.adapter.lora_rank) and not adapter,
            full=full,
            checked=checked,
            **_example_values(run, export),
        )
    )
    return page.encode("utf-8", "replace").decode()


def front_matter(
    run: TrainedRun, base: Origin, data: Origin, splits: dict[str, Summary], adapter: bool
) -> str:
    """YAML between its dashes; only what the hub can look up."""
    from huggingface_hub import ModelCardData

    lora = ["lora"] if run.config.adapter.lora_rank else []
    header = ModelCardData(
        license=base.licence if re.fullmatch(r"[a-z0-9.+-]+", base.licence) else UNKNOWN,
        base_model=base.hub_id,
        datasets=[data.hub_id] if data.hub_id else None,
        library_name="peft" if adapter else "transformers",
        tags=[run.config.recipe, run.recipe.task, *lora, "fine-tuned"],
        metrics=list(splits["test"]["scores"]) if "test" in splits else None,
    )
    return header.to_yaml()


def words(value: object) -> str:
    """A text from elsewhere as plain words of one line of Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(str(value).split()))


def code(value: object) -> str:
    """The same between backticks."""
    return "`" + " ".join(str(value).replace("`", "'").replace("|", "/").split()) + "`"


def _interval(score: Value) -> str:
    return str(of_value(score))


def _settings(config: Config) -> dict[str, Any]:
    """Dotted key -> value of everything that decides numbers, paths cut to their last part."""
    parts = {key: value for key, value in to_dict(config).items() if key not in NO_NUMBERS}
    flat = flatten(parts)
    for key in ("data.data", "task.index", "model.model"):
        if flat.get(key) and Path(flat[key]).exists():
            flat[key] = Path(flat[key]).name
    return flat


def _example_values(run: TrainedRun, export: Path) -> dict[str, Any]:
    """What the example in the card needs to know of the model."""
    recipe, config, adapter = run.recipe, run.config, is_adapter(export)
    task = open_task(config, export)
    specials = text.specials_of(task.tokenizer)
    example = _example(recipe, config)
    blank = text.continuations(task.tokenizer, ["a"])[0] != "a"
    loader = backbone.AUTO_CLASSES[task.kind]
    quantization = adapters.quantization(config.adapter, config.optim.precision) if adapter else None
    known = quantization.to_diff_dict() if quantization is not None else {}
    hub_id = base_of(config).hub_id
    labels = len(recipe.labels)
    return {
        "task": recipe.task,
        "kind": task.kind,
        "loader": loader,
        "specials": specials,
        "ends": getattr(task, "ends", []),
        "length": config.data.max_length,
        "min_context": text.MIN_CONTEXT,
        "pooling": backbone.pooling(task.described.config, config.model.pooling),
        "example": example,
        "blank": blank,
        "question_template": getattr(task, "question", "{}"),
        "labels": recipe.labels[: len(example["options"])] if "options" in example else recipe.labels,
        "one_output": labels == 2,
        "config": config,
        "adapter": adapter,
        "hub_id": hub_id,
        "source": hub_id or Path(config.model.model).name,
        "here": task.described.source,
        "commit": task.described.commit,
        "quantization": {key: value for key, value in known.items() if key != "quant_method"},
    }


def _example(recipe: Recipe, config: Config) -> Example:
    """A generated row, so that no data set's text is published: the first test row of a run on samples."""
    examples = [recipe.to_example(row) for row in recipe.sample(max(100, config.data.sample_rows), 0)]
    example = next(example for example in examples if side_of(example["group"]) == "test")
    if recipe.finish is not None:
        (example,) = recipe.finish([Example(**{"id": "1", **example})], config.task)  # type: ignore[typeddict-item]
    if not getattr(config.task, "prompt", True):
        example.pop("context", None)
    return example
