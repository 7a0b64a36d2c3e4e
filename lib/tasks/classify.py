"""Classify: one or more texts -> one of a few classes.

Each text is encoded by itself after the row's context; the vectors stand side by side before the head. When a
pair's order means nothing (`recipe.swapped_labels`), predictions say what the model answers with the texts
swapped.
"""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.config import Config, PairConfig
from lib.data import text
from lib.data.collate import group
from lib.data.rows import EncodedRow, Rows
from lib.models import backbone, heads
from lib.recipe import Example, Prediction, Recipe
from lib.tasks.common import NO_LABEL, LabelledBatch, ModelTask, describe


class Classify(ModelTask):
    """The verbs of lib.task.Task."""

    def __init__(self, recipe: Recipe, config: Config, described: backbone.Described) -> None:
        super().__init__(recipe, config, described, "encoder")
        self.counts |= {"contexts cut": 0, "texts cut": 0}
        self.num_texts = len(recipe.to_example(recipe.sample(1, 0)[0])["texts"])
        pair = config.task if isinstance(config.task, PairConfig) else None
        self.use_context = pair is None or pair.prompt
        self.both_orders = pair is not None and pair.swap and recipe.swapped_labels is not None

    def check(self) -> None:
        if self.described.config.is_encoder_decoder:
            raise ValueError(
                f"--model {self.described.name} is an encoder-decoder; classify needs an encoder or a decoder"
            )
        super().check()

    def encode(
        self, examples: list[Example], between: Callable[[], None] = lambda: None, refuse: bool = True
    ) -> list[EncodedRow]:
        turns: list[str] = []
        for example in examples:
            turns += chain(example.get("context", []) if self.use_context else [], *example["texts"])
        tokens = iter(text.tokenize(self.tokenizer, turns, between))
        return [self._encode_one(example, tokens) for example in examples]

    def _encode_one(self, example: Example, tokens: Any) -> EncodedRow:
        join, separator = text.join_turns, self.specials.separator
        has_context = self.use_context and "context" in example
        context = join([next(tokens) for _ in example["context"]], separator) if has_context else None
        pieces = [join([next(tokens) for _ in turns], separator) for turns in example["texts"]]
        fitted = [text.fit(context, piece, self.specials, self.config.data.max_length) for piece in pieces]
        self.counts["contexts cut"] += any(piece.context_cut for piece in fitted)
        self.counts["texts cut"] += sum(piece.text_cut > 0 for piece in fitted)
        cut, label = (
            sum(piece.context_cut + piece.text_cut for piece in fitted),
            example.get("label", NO_LABEL),
        )
        return EncodedRow(example["id"], [piece.ids for piece in fitted], label, num_cut=cut)

    def assemble(self, base: Any, frozen: list[nn.Module]) -> heads.Classifier:
        config, num_labels = self.config, len(self.recipe.labels)
        shape = heads.HeadShape(self.num_texts, 1 if num_labels == 2 else num_labels, self.both_orders)
        pooling = backbone.pooling(self.described.config, config.model.pooling)
        return heads.Classifier(base, pooling, frozen, shape, config.optim.seed)

    def collate(self, rows: Rows, indices: tuple[int, ...], one_call: bool = False) -> LabelledBatch:
        sequences = [sequence for row in indices for sequence in rows.sequences_of(row)]
        causal = backbone.is_causal(self.described.config)
        grouped = group(sequences, self.specials.pad, causal, one_call)
        return LabelledBatch(grouped, torch.from_numpy(rows.labels[list(indices)]))

    def loss(self, output: Tensor, batch: LabelledBatch) -> Tensor:
        orders = output.shape[1]  # of the texts: as they stand, and turned
        labels = [batch.labels]
        if orders == 2:
            assert self.recipe.swapped_labels is not None
            labels.append(torch.tensor(self.recipe.swapped_labels, device=output.device)[batch.labels])
        flat = torch.stack(labels, dim=1).flatten()
        return F.cross_entropy(output.flatten(0, 1), flat, reduction="sum") / orders

    def hits(self, output: Tensor, batch: LabelledBatch) -> Tensor:
        return (output[:, 0].argmax(1) == batch.labels).sum()

    def predict(self, model: heads.Classifier, batch: LabelledBatch) -> list[Prediction]:
        vectors = model.vectors(batch.inputs)  # (rows, texts, hidden)
        logits = model.logits(vectors)
        chosen, probabilities = logits.argmax(1).tolist(), _probabilities(logits)
        logs, labels = logits.log_softmax(1).tolist(), batch.labels.tolist()
        predictions = []
        for place, label in enumerate(labels):
            prediction = Prediction(
                prediction=chosen[place], probabilities=probabilities[place], log_probabilities=logs[place]
            )
            predictions.append(prediction if label == NO_LABEL else Prediction(label=label, **prediction))
        if self.recipe.swapped_labels is not None:
            swapped = _probabilities(model.logits(vectors.flip(1))[:, list(self.recipe.swapped_labels)])
            for prediction, row in zip(predictions, swapped, strict=True):
                prediction["swapped"] = row
        return predictions


def _probabilities(logits: Tensor) -> list[list[float]]:
    return logits.softmax(1).tolist()


def make(recipe: Recipe, config: Config, folder: Path | None) -> Classify:
    """The task with the model's configuration and tokenizer, before any weight is loaded."""
    return Classify(recipe, config, describe(recipe, config, folder))
