"""Choose: a question, its options, perhaps a context -> the options in order of their scores.

Encoders read `[CLS] context [SEP] question option [SEP]`, one score an option; decoders and T5 are asked how
likely each option is after context and question. The context gives way to the length limit (its beginning is
kept, the same for all options); question and options are never cut.
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
from lib.data.rows import EncodedRow, Rows
from lib.data.tree import Continuations, plant
from lib.models import backbone, choosers
from lib.recipe import Example, Prediction, Recipe
from lib.tasks.common import NO_LABEL, LabelledBatch, ModelTask, describe

# Decoders whose states are exact when options share a prefix, and whose output layer is a plain one: each is
# held against transformers' own logits of separate sequences in tests/test_choose.py.
DECODERS = ("llama", "mistral", "phi3", "gpt_neox", "gpt2", "qwen2", "qwen3", "gemma", "olmo2", "phi")
SEQ2SEQ = ("t5", "mt5")
# What stands around context and question; decoders go on after it, T5's encoder ends with the context.
QUESTION = {"encoder": "{}", "causal": "\n\nQuestion: {}\nAnswer:", "seq2seq": "question: {} context:"}


class Choose(ModelTask):
    """The verbs of lib.task.Task."""

    def __init__(self, recipe: Recipe, config: Config, described: backbone.Described) -> None:
        super().__init__(recipe, config, described, _kind(described.config))
        self.counts |= {"contexts cut": 0, "context tokens cut": 0}
        self.question = QUESTION[self.kind]
        assert isinstance(config.task, ChooseConfig), "a recipe of this task has task=ChooseConfig(...)"
        self.options = config.task

    def check(self) -> None:
        super().check()
        name, kind = self.described.name, self.model_type
        if self.kind == "encoder":
            if self.options.option_score != "mean":
                raise ValueError(
                    f"--option-score {self.options.option_score}: {name} has a head that scores options, "
                    "not their tokens; leave it out"
                )
            return
        if self.config.model.pooling != "auto":
            raise ValueError(f"--pooling {self.config.model.pooling}: {name} scores tokens; leave it out")
        if kind not in DECODERS + SEQ2SEQ:
            raise ValueError(
                f"--model {name} is a {kind}; its option scores have not been checked. Use an encoder, or "
                f"one of {', '.join(DECODERS + SEQ2SEQ)}"
            )
        if self.config.model.freeze == "all":
            raise ValueError(
                f"--freeze all leaves nothing of {name} to train, it has no new head; use --freeze bottom or "
                "--lora-rank 16"
            )
        window, length = getattr(self.described.config, "sliding_window", None), self.config.data.max_length
        if window is not None and length > window:
            raise ValueError(f"--max-length {length} is more than {name} looks back; use at most {window}")

    def encode(self, examples: list[Example], between: Callable[[], None] = lambda: None) -> list[EncodedRow]:
        use_context, template = self.options.prompt, self.question
        texts: list[str] = []
        for example in examples:
            texts += example.get("context", []) if use_context else []
            question = template.format(example["question"])
            texts += [question, *text.continuations(self.tokenizer, example["options"])]
        tokens = iter(text.tokenize(self.tokenizer, texts, between))
        return [self._encode_one(example, tokens, use_context) for example in examples]

    def _encode_one(self, example: Example, tokens: Any, use_context: bool) -> EncodedRow:
        turns = [next(tokens) for _ in example.get("context", [])] if use_context else []
        question, *options = [next(tokens) for _ in range(1 + len(example["options"]))]
        start, separator = (np.array(ids, np.int32) for ids in (self.specials.start, self.specials.separator))
        whole, longest = text.join_turns(turns, []), max(map(len, options))
        if self.kind == "encoder":
            frame = len(start) + len(separator) * (2 if turns else 1)
        else:
            frame = len(start) if self.kind == "causal" else len(separator)
        # T5's options have a sequence of their own
        needed = frame + len(question) + (0 if self.kind == "seq2seq" else longest)
        self._refuse_long(example, max(needed, longest + 1), options)
        context = text.beginning(whole, self.config.data.max_length - needed)
        self.counts["contexts cut"] += len(context) < len(whole)
        self.counts["context tokens cut"] += len(whole) - len(context)
        if self.kind == "encoder":
            before = [start, *([context, separator] if turns else []), question]
            sequences = [np.concatenate([*before, option, separator]) for option in options]
        elif self.kind == "causal":
            sequences = [np.concatenate([start, context, question]), *options]
        else:
            sequences = [np.concatenate([question, context, separator]), *options]
        cut = len(whole) - len(context)
        return EncodedRow(example["id"], sequences, example.get("label", NO_LABEL), num_cut=cut)

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

    def _refuse_long(self, example: Example, needed: int, options: list[np.ndarray]) -> None:
        if needed > self.config.data.max_length:
            raise ValueError(
                f"row {example['id']}: question and longest option take {needed} tokens, --max-length is "
                f"{self.config.data.max_length}; they are never cut, so use a higher one or take the row out"
            )
        if self.kind != "encoder" and not all(map(len, options)):
            raise ValueError(f"row {example['id']}: the tokenizer makes no token of one of its options")

    def assemble(self, base: Any, frozen: list[nn.Module]) -> nn.Module:
        config = self.config
        if self.kind == "encoder":
            pooling = backbone.pooling(self.described.config, config.model.pooling)
            return choosers.OptionEncoder(base, pooling, frozen, config.optim.seed)
        model = choosers.CausalChooser if self.kind == "causal" else choosers.Seq2SeqChooser
        return model(base, self.options.option_score, frozen)

    def collate(self, rows: Rows, indices: tuple[int, ...]) -> LabelledBatch:
        sequences = [rows.sequences_of(row) for row in indices]
        labels = torch.from_numpy(rows.labels[list(indices)])
        if self.kind == "causal":
            return LabelledBatch(plant(sequences, self.specials.pad), labels)
        if self.kind == "seq2seq":
            return LabelledBatch(self._pairs(sequences), labels)
        grouped = group(list(chain(*sequences)), self.specials.pad)
        widths = torch.tensor([len(row) for row in sequences])
        return LabelledBatch(choosers.Options(grouped, widths), labels)

    def _pairs(self, rows: list[list[np.ndarray]]) -> choosers.Pairs:
        begin = np.array([self.described.config.decoder_start_token_id], np.int64)
        options = [option for row in rows for option in row[1:]]
        starts = matrix([np.concatenate([begin, option[:-1]]) for option in options], self.specials.pad)
        sources = group([row[0] for row in rows], self.specials.pad)
        row_of = np.repeat(np.arange(len(rows)), [len(row) - 1 for row in rows])
        return choosers.Pairs(
            sources,
            torch.from_numpy(starts),
            torch.from_numpy(row_of),
            Continuations.of(rows),
            sources.real_tokens + sum(map(len, options)),
            sources.computed_tokens + starts.size,
        )

    def loss(self, output: Tensor, batch: LabelledBatch) -> Tensor:
        return F.cross_entropy(output, batch.labels, reduction="sum")

    def hits(self, output: Tensor, batch: LabelledBatch) -> int:
        return int((output.argmax(1) == batch.labels).sum())

    def predict(self, model: nn.Module, batch: LabelledBatch) -> list[Prediction]:
        output: Tensor = model(batch.inputs)
        predictions = []
        scores, widths = output.tolist(), batch.inputs.widths.tolist()
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


def _kind(config: Any) -> backbone.Kind:
    if config.is_encoder_decoder:
        return "seq2seq"
    return "causal" if backbone.is_causal(config) else "encoder"


def make(recipe: Recipe, config: Config, folder: Path | None) -> Choose:
    """The task with the model's configuration and tokenizer, before any weight is loaded."""
    return Choose(recipe, config, describe(recipe, config, folder))
