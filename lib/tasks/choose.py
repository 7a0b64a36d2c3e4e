"""Choose: a question, its options, perhaps a context -> the options in order of their scores.

Encoders give each option one score; decoders and T5 are asked how likely each option is after context and
question (lib.data.options: what they read).
"""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.config import ChooseConfig, Config
from lib.data import text
from lib.data.collate import group, matrix
from lib.data.options import Asked, OptionReader, Read
from lib.data.rows import EncodedRow, Rows
from lib.data.tree import Continuations, Widths, plant
from lib.models import backbone, choosers
from lib.recipe import Example, Prediction, Recipe
from lib.tasks import families
from lib.tasks.common import NO_LABEL, LabelledBatch, ModelTask, describe

# What stands around context and question; decoders go on after it, T5's encoder ends with the context.
QUESTION = {"encoder": "{}", "causal": "\n\nQuestion: {}\nAnswer:", "seq2seq": "question: {} context:"}


class Choose(ModelTask):
    """The verbs of lib.task.Task."""

    def __init__(self, recipe: Recipe, config: Config, described: backbone.Described) -> None:
        super().__init__(recipe, config, described, families.kind_of(described.config))
        self.counts |= {"contexts cut": 0, "context tokens cut": 0, "questions cut": 0}
        self.question = QUESTION[self.kind]
        assert isinstance(config.task, ChooseConfig), "a recipe of this task has task=ChooseConfig(...)"
        self.options = config.task

    def check(self) -> None:
        super().check()
        name = self.described.name
        if self.kind == "encoder":
            if self.options.option_score != "mean":
                raise ValueError(
                    f"--option-score {self.options.option_score}: {name} has a head that scores options, "
                    "not their tokens; leave it out"
                )
            return
        families.refuse(self.config, self.described, "option scores", also="an encoder, or ")

    def encode(
        self, examples: list[Example], between: Callable[[], None] = lambda: None, refuse: bool = True
    ) -> list[EncodedRow]:
        limit = self.config.data.max_length
        found = self._read(examples, limit, between)
        needed = {row["id"]: read.needed for row, read in zip(examples, found, strict=True)}
        long = {row: length for row, length in needed.items() if length > limit}
        if long and refuse:
            raise ValueError(self._too_long(long))
        if long:
            fitted = self._fitted([row for row in examples if row["id"] in long], max(long.values()))
            found = [fitted.get(row["id"], read) for row, read in zip(examples, found, strict=True)]
        return [self._encoded(*pair) for pair in zip(examples, found, strict=True)]

    def _read(
        self, examples: list[Example], limit: int, between: Callable[[], None] = lambda: None
    ) -> list[Read]:
        use_context, template = self.options.prompt, self.question
        asked = [
            Asked(
                row.get("context", []) if use_context else [],
                template.format(row["question"]),
                row["options"],
            )
            for row in examples
        ]
        return OptionReader(self.tokenizer, self.kind, limit).read(asked, between)

    def _fitted(self, examples: list[Example], longest: int) -> dict[str, Read]:
        """Rows that must be answered although they are too long: without context, up to what the model takes;
        what is longer still loses the end of its question, and of options that take half of it."""
        limit = min(longest, self.described.max_positions or longest)
        examples = [Example(**{**row, "context": []}) for row in examples]
        found = {}
        for example, read in zip(examples, self._read(examples, limit), strict=True):
            if read.needed > limit:
                options = [
                    text.beginning_of(self.tokenizer, option, limit // 2) for option in example["options"]
                ]
                cut = Example(**{**example, "options": options})
                excess = max(0, self._read([cut], limit)[0].needed - limit)
                question, _ = text.shortened(self.tokenizer, example["question"], excess)
                (read,) = self._read([Example(**{**cut, "question": question})], limit)
                self.counts["questions cut"] += 1
            found[example["id"]] = read
        return found

    def _encoded(self, example: Example, read: Read) -> EncodedRow:
        if self.kind != "encoder" and not all(map(len, read.sequences)):
            raise ValueError(f"row {example['id']}: the tokenizer makes no token of one of its options")
        self.counts["contexts cut"] += read.cut > 0
        self.counts["context tokens cut"] += read.cut
        return EncodedRow(example["id"], read.sequences, example.get("label", NO_LABEL), num_cut=read.cut)

    def lengths(self, row: EncodedRow) -> list[int]:
        lengths = super().lengths(row)
        if self.kind == "encoder":
            return lengths
        prefix, *options = lengths
        return [prefix + option for option in options] if self.kind == "causal" else [max(lengths)]

    def shown(self, row: EncodedRow) -> list[str]:
        if self.kind == "encoder":
            return super().shown(row)
        # what carries loss: the tokens of the options
        prefix, *options = super().shown(row)
        return [prefix, *(f"[[{option}]]" for option in options)]

    def _too_long(self, long: dict[str, int]) -> str:
        """All rows whose question and options alone are too long, and what fits; `long`: id -> tokens."""
        shown = ", ".join(f"row {row} takes {length}" for row, length in list(long.items())[:5])
        more = f" and {len(long) - 5} more" if len(long) > 5 else ""
        least, limit = max(long.values()), self.described.max_positions
        advice = f"use --max-length {least} or take them out"
        if limit is not None and least > limit:
            advice = f"the model takes at most {limit}, so take those out that are longer"
        return (
            f"question and longest option take more than the {self.config.data.max_length} tokens of "
            f"--max-length in {len(long)} rows ({shown}{more}); they are never cut: {advice}"
        )

    def assemble(self, base: Any, frozen: list[nn.Module]) -> nn.Module:
        config = self.config
        if self.kind == "encoder":
            pooling = backbone.pooling(self.described.config, config.model.pooling)
            return choosers.OptionEncoder(base, pooling, frozen, config.optim.seed)
        model = choosers.CausalChooser if self.kind == "causal" else choosers.Seq2SeqChooser
        return model(base, self.options.option_score, frozen)

    def collate(self, rows: Rows, indices: tuple[int, ...], one_call: bool = False) -> LabelledBatch:
        sequences = [rows.sequences_of(row) for row in indices]
        labels = torch.from_numpy(rows.labels[list(indices)])
        if self.kind == "causal":
            return LabelledBatch(plant(sequences, self.specials.pad, one_call), labels)
        if self.kind == "seq2seq":
            return LabelledBatch(self._pairs(sequences, one_call), labels)
        grouped = group(list(chain(*sequences)), self.specials.pad, one_call=one_call)
        widths = Widths.of([len(row) for row in sequences])
        return LabelledBatch(choosers.Options(grouped, widths), labels)

    def _pairs(self, rows: list[list[np.ndarray]], one_call: bool) -> choosers.Pairs:
        begin = np.array([self.described.config.decoder_start_token_id], np.int64)
        options = [option for row in rows for option in row[1:]]
        starts = matrix([np.concatenate([begin, option[:-1]]) for option in options], self.specials.pad)
        sources = group([row[0] for row in rows], self.specials.pad, one_call=one_call)
        row_of = np.repeat(np.arange(len(rows)), [len(row) - 1 for row in rows])
        lengths = np.array([len(row[0]) for row in rows])[row_of]
        return choosers.Pairs(
            sources,
            torch.from_numpy(starts),
            torch.from_numpy(row_of),
            Continuations.of(rows),
            sources.amounts.beside_texts(np.array(list(map(len, options))), lengths),
            sources.computed_tokens + starts.size,
        )

    def loss(self, output: Tensor, batch: LabelledBatch) -> Tensor:
        return F.cross_entropy(output, batch.labels, reduction="sum")

    def hits(self, output: Tensor, batch: LabelledBatch) -> Tensor:
        return (output.argmax(1) == batch.labels).sum()

    def predict(self, model: nn.Module, batch: LabelledBatch) -> list[Prediction]:
        output: Tensor = model(batch.inputs)
        predictions = []
        scores, widths = output.tolist(), batch.inputs.widths.by_row
        probabilities, logs = output.softmax(1).tolist(), output.log_softmax(1).tolist()
        for place, (width, label) in enumerate(zip(widths, batch.labels.tolist(), strict=True)):
            # by the scores: of small ones only the logarithm is left; equal ones in their own order
            order = sorted(range(width), key=lambda option: -scores[place][option])
            prediction = Prediction(
                prediction=order[0],
                probabilities=probabilities[place][:width],
                log_probabilities=logs[place][:width],
                order=order,
            )
            predictions.append(prediction if label == NO_LABEL else Prediction(label=label, **prediction))
        return predictions


def make(recipe: Recipe, config: Config, folder: Path | None) -> Choose:
    """The task with the model's configuration and tokenizer, before any weight is loaded."""
    return Choose(recipe, config, describe(recipe, config, folder))
