"""Classify: one or more texts -> one of a few classes.

Each text is encoded by itself after the row's context; the vectors stand side by side before the head. When a
pair's order means nothing (`recipe.swapped_labels`), predictions say what the model answers with the texts
swapped.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.config import Config
from lib.data import text
from lib.data.collate import Grouped, group
from lib.data.rows import EncodedRow, Rows
from lib.models import adapters, backbone, heads
from lib.models.freezing import freeze
from lib.recipe import Example, Prediction, Recipe


@dataclass(frozen=True)
class ClassifyBatch:
    """The texts of some rows and their classes."""

    inputs: Grouped
    labels: Tensor  # (rows,) int64

    @property
    def real_tokens(self) -> int:
        return self.inputs.real_tokens

    @property
    def computed_tokens(self) -> int:
        return self.inputs.computed_tokens

    def to(self, device: torch.device) -> "ClassifyBatch":
        return ClassifyBatch(self.inputs.to(device), self.labels.to(device, non_blocking=True))


class Classify:
    """The verbs of lib.tasks.Task."""

    def __init__(self, recipe: Recipe, config: Config, described: backbone.Described) -> None:
        self.recipe, self.config, self.described = recipe, config, described
        self.tokenizer, self.model_type = described.tokenizer, described.config.model_type
        self.specials = text.specials_of(self.tokenizer)
        self.counts = {"contexts cut": 0, "texts cut": 0}
        self.base_stays = bool(config.adapter.lora_rank) or config.adapter.quantize != "none"
        """The backbone's own weights never change, and a checkpoint keeps only what trains."""
        self.num_texts = len(recipe.to_example(recipe.sample(1, 0)[0])["texts"])

    def check(self) -> None:
        if self.described.config.is_encoder_decoder:
            raise ValueError(
                f"--model {self.described.name} is an encoder-decoder; classify needs an encoder or a decoder"
            )
        length, limit = self.config.data.max_length, self.described.max_positions
        if limit is not None and length > limit:
            raise ValueError(
                f"--max-length {length} is more than {self.described.name} takes; use at most {limit}"
            )
        if length < text.smallest_length(self.specials):
            raise ValueError(
                f"--max-length {length} is too short; use at least {text.smallest_length(self.specials)}"
            )

    def fingerprints(self) -> dict[str, str]:
        return {"tokenizer": text.fingerprint(self.tokenizer), "model": self.described.fingerprint()}

    def checkpoint_bytes(self) -> int:
        with torch.device("meta"):
            model = self._assemble(backbone.random(self.described))
        sizes = {name: value.numel() * value.element_size() for name, value in model.named_parameters()}
        trains = sum(sizes[name] for name, value in model.named_parameters() if value.requires_grad)
        # weights, and Adam's two moments of what trains
        return (trains if self.base_stays else sum(sizes.values())) + 2 * trains

    def encode(self, examples: list[Example], between: Callable[[], None] = lambda: None) -> list[EncodedRow]:
        use_context = self.config.data.prompt
        turns: list[str] = []
        for example in examples:
            turns += chain(example.get("context", []) if use_context else [], *example["texts"])
        tokens = iter(text.tokenize(self.tokenizer, turns, between))
        return [self._encode_one(example, tokens, use_context) for example in examples]

    def _encode_one(self, example: Example, tokens: Any, use_context: bool) -> EncodedRow:
        join, separator = text.join_turns, self.specials.separator
        has_context = use_context and "context" in example
        context = join([next(tokens) for _ in example["context"]], separator) if has_context else None
        pieces = [join([next(tokens) for _ in turns], separator) for turns in example["texts"]]
        fitted = [text.fit(context, piece, self.specials, self.config.data.max_length) for piece in pieces]
        self.counts["contexts cut"] += any(piece.context_cut for piece in fitted)
        self.counts["texts cut"] += sum(piece.text_cut > 0 for piece in fitted)
        return EncodedRow(example["id"], [piece.ids for piece in fitted], example["label"])

    def build(self, folder: Path | None = None) -> heads.Classifier:
        model, described = self.config.model, self.described
        if folder is not None and not self.base_stays:
            model, described = (
                replace(model, init="pretrained"),
                replace(described, source=str(folder / "backbone")),
            )
        quantization = adapters.quantization(self.config.adapter, self.config.optim.precision)
        base = backbone.load(described, model, self.config.optim.seed, quantization)
        adapters.keep_as_loaded(base)
        classifier = self._assemble(base)
        if folder is not None:
            heads.load_head(classifier, folder)
            if self.config.adapter.lora_rank:
                adapters.load(classifier.backbone, folder / "adapter")
        return classifier

    def _assemble(self, base: Any) -> heads.Classifier:
        """Adapter, frozen parts and head on a backbone."""
        config, num_labels = self.config, len(self.recipe.labels)
        frozen: list[nn.Module] = []
        if config.adapter.lora_rank:
            base = adapters.add(base, config.adapter, config.optim.seed)
        else:
            frozen = freeze(base, config.model.freeze)
        pooling = config.model.pooling
        if pooling == "auto":
            pooling = "last" if backbone.is_causal(self.described.config) else "mean"
        return heads.Classifier(
            base,
            num_texts=self.num_texts,
            num_outputs=1 if num_labels == 2 else num_labels,
            pooling=pooling,
            both_orders=config.data.swap and self.recipe.swapped_labels is not None,
            frozen=frozen,
            seed=config.optim.seed,
        )

    def state(self, model: heads.Classifier) -> dict[str, Tensor]:
        state = model.state_dict()
        if not self.base_stays:
            return state
        return {name: state[name] for name, value in model.named_parameters() if value.requires_grad}

    def save(self, model: heads.Classifier, state: dict[str, Tensor], folder: Path) -> None:
        heads.save(model, state, folder)
        if not self.base_stays:
            self.tokenizer.save_pretrained(folder / "backbone")

    def collate(self, rows: Rows, indices: tuple[int, ...]) -> ClassifyBatch:
        sequences = [sequence for row in indices for sequence in rows.sequences_of(row)]
        return ClassifyBatch(
            group(sequences, self.specials.pad), torch.from_numpy(rows.labels[list(indices)])
        )

    def loss(self, output: Tensor, batch: ClassifyBatch) -> Tensor:
        orders = output.shape[1]  # of the texts: as they stand, and turned
        labels = [batch.labels]
        if orders == 2:
            assert self.recipe.swapped_labels is not None
            labels.append(torch.tensor(self.recipe.swapped_labels, device=output.device)[batch.labels])
        flat = torch.stack(labels, dim=1).flatten()
        return F.cross_entropy(output.flatten(0, 1), flat, reduction="sum") / orders

    def hits(self, output: Tensor, batch: ClassifyBatch) -> int:
        return int((output[:, 0].argmax(1) == batch.labels).sum())

    def predict(self, model: heads.Classifier, batch: ClassifyBatch) -> list[Prediction]:
        vectors = model.vectors(batch.inputs)  # (rows, texts, hidden)
        said = _probabilities(model.logits(vectors))
        labels = batch.labels.tolist()
        found = [
            Prediction(label=label, prediction=max(range(len(row)), key=row.__getitem__), probabilities=row)
            for label, row in zip(labels, said, strict=True)
        ]
        if self.recipe.swapped_labels is not None:
            swapped = _probabilities(model.logits(vectors.flip(1))[:, list(self.recipe.swapped_labels)])
            for prediction, row in zip(found, swapped, strict=True):
                prediction["swapped"] = row
        return found


def _probabilities(logits: Tensor) -> list[list[float]]:
    return logits.softmax(1).tolist()


def make(recipe: Recipe, config: Config, folder: Path | None) -> Classify:
    """The task with the model's configuration and tokenizer, before any weight is loaded."""
    model = config.model
    if folder is not None and (folder / "backbone").is_dir():
        model = replace(model, model=str(folder / "backbone"))
    return Classify(recipe, config, replace(backbone.describe(model, recipe.family), name=config.model.model))
