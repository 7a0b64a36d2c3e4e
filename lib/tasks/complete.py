"""Complete: a prompt -> a text, by a decoder or T5.

Loss is taken on the tokens of the text alone, its end included (lib.data.prompts: what is read;
lib.data.completions: how). Evaluation measures that loss; what the model writes by itself is another pass
(lib.models.writing).
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib.config import CompleteConfig, Config
from lib.data import text
from lib.data.amounts import Amounts
from lib.data.collate import group, matrix
from lib.data.completions import Pair, SharedCosts, lay
from lib.data.loader import Costs, MicroBatch
from lib.data.prompts import Asked, PromptReader, Read, Template, letters_only, vanished
from lib.data.rows import EncodedRow, Rows
from lib.models import backbone, completers
from lib.models.completers import Likely
from lib.models.language import LanguageModel
from lib.models.writing import How, write
from lib.recipe import Example, Prediction, Recipe
from lib.tasks import families
from lib.tasks.common import NO_LABEL, ModelTask, describe

KNOWN = 0  # the label of rows whose text is known
# Texts are written without activations for a backward pass, so more tokens fit into memory at once than in
# training: keys and values of this many times the token budget.
WRITING = 4


def to_write(rows: Rows, row: int) -> np.ndarray:
    """The prompt that a text is written behind."""
    prompt, _, *of_unknown = rows.sequences_of(row)
    return of_unknown[0] if of_unknown else prompt


@dataclass(frozen=True)
class TextBatch:
    """Prompts with their texts, and whose the texts' tokens are."""

    inputs: Any
    row_of: Tensor  # (tokens,) int64
    known: list[bool]
    """Whether a row's text is known; else it is an end token alone."""

    @property
    def amounts(self) -> Amounts:
        return self.inputs.amounts

    @property
    def computed_tokens(self) -> int:
        return self.inputs.computed_tokens

    def to(self, device: torch.device) -> "TextBatch":
        return TextBatch(self.inputs.to(device), self.row_of, self.known)  # row_of is read on the CPU


class Complete(ModelTask):
    """The verbs of lib.task.Task."""

    def __init__(self, recipe: Recipe, config: Config, described: backbone.Described) -> None:
        super().__init__(recipe, config, described, families.kind_of(described.config))
        self.counts |= {"prompts cut": 0, "prompt tokens cut": 0, "gold passages cut": 0, "questions cut": 0}
        assert isinstance(config.task, CompleteConfig), "a recipe of this task has task=CompleteConfig(...)"
        self.options = config.task
        self.writes = True

    def check(self) -> None:
        super().check()
        name = self.described.name
        families.refuse(self.config, self.described, "texts")
        if self.options.chat and self.kind == "seq2seq":
            raise ValueError(f"--chat: {name} is no chat model; leave it out")
        if self.options.chat and not self.tokenizer.chat_template:
            raise ValueError(f"--chat: the tokenizer of {name} has no chat template; leave it out")
        if self.kind == "causal" and self.options.max_new_tokens >= self.config.data.max_length:
            raise ValueError(
                f"--max-new-tokens {self.options.max_new_tokens} leaves no room for a prompt in --max-length "
                f"{self.config.data.max_length}"
            )
        used = {name for _, name in self._reader().template.parts}
        if unread := [name for name in self.recipe.fields if name not in used]:
            raise ValueError(
                f"the prompt has no {{{unread[0]}}}, so the model would not read it; the prompt needs "
                f"{' and '.join('{' + name + '}' for name in self.recipe.fields)}"
            )

    def _reader(self) -> PromptReader:
        template = Template.parse(self.options.template, self.recipe.fields, "the prompt")
        return PromptReader(
            self.tokenizer,
            template,
            self.recipe.gives_way,
            self._room,
            seq2seq=self.kind == "seq2seq",
            chat=self.options.chat,
        )

    def _room(self, completion: int) -> int:
        """Tokens of a completion -> most tokens of its prompt. All texts up to the most that are written have
        the same room, so that a prompt does not tell how long its text is."""
        limit = self.config.data.max_length
        return limit if self.kind == "seq2seq" else limit - max(completion, self.options.max_new_tokens)

    def _asked(self, example: Example, fields: dict[str, list[str]] | None = None) -> Asked:
        clean = letters_only if self.options.letters_only else str
        fields = example["fields"] if fields is None else fields
        target = example.get("target")
        return Asked(
            {name: [clean(piece) for piece in pieces] for name, pieces in fields.items()},
            None if target is None else clean(target),
        )

    def unusable(self, examples: list[Example], between: Callable[[], None]) -> dict[str, str]:
        """Rows that cannot be learned or scored -> why: even alone their text is too long, or empty."""
        least = [
            self._asked(row, {name: [] if name in self.recipe.gives_way else row["fields"][name]
                              for name in row["fields"]})
            for row in examples
        ]  # fmt: skip
        reasons = {}
        for row, read in zip(examples, self._reader().read(least, between), strict=True):
            size = len(read.completion)
            gone = self.options.letters_only and vanished(row["fields"], row.get("target"))
            if gone:
                reasons[row["id"]] = f"nothing is left of its {gone} with --letters-only"
            elif read.excess or size > self.config.data.max_length:
                reasons[row["id"]] = self._too_long(size, len(read.prompt))
        return reasons

    def _too_long(self, size: int, prompt: int) -> str:
        """Of a text and what must stand before it, in tokens."""
        needed = size + prompt if self.kind == "causal" else max(size, prompt)
        limit = self.described.max_positions
        mended = f"--max-length {needed} would do"
        if limit is not None and needed > limit:
            mended = f"it needs {needed}, and {self.described.name} takes {limit}"
        return (
            f"its text has {size} tokens and does not fit into --max-length {self.config.data.max_length} "
            f"beside its prompt; {mended}"
        )

    def encode(
        self, examples: list[Example], between: Callable[[], None] = lambda: None, refuse: bool = True
    ) -> list[EncodedRow]:
        """Sequences: prompt, completion, and where this one is so long that it took room from its prompt, the
        prompt as it is read by who does not know the completion."""
        reader, asked = self._reader(), [self._asked(row) for row in examples]
        found = reader.read(asked, between)
        rows = [self._encoded(*pair, refuse) for pair in zip(examples, found, strict=True)]
        most = self.options.max_new_tokens
        causal = self.kind == "causal"  # else the two share no room
        long = [place for place, read in enumerate(found) if causal and len(read.completion) > most]
        unknown = reader.read([replace(asked[place], completion=None) for place in long], between)
        for place, read in zip(long, unknown, strict=True):
            found[place], prompt = read, self._fitting(read)
            if not np.array_equal(prompt, rows[place].sequences[0]):
                rows[place].sequences.append(prompt)
        self.counts["questions cut"] += sum(read.excess > 0 for read in found)
        return rows

    def _fitting(self, read: Read) -> np.ndarray:
        """The prompt; without its beginning where nothing that may give way is left and a row must be
        answered."""
        start = text.specials_of(self.tokenizer).start
        rest = read.prompt[len(start) + read.excess :]
        return np.concatenate([start, rest]).astype(np.int32) if read.excess else read.prompt

    def _encoded(self, example: Example, read: Read, refuse: bool) -> EncodedRow:
        if read.excess and refuse:
            raise ValueError(
                f"row {example['id']}: its prompt takes {read.excess} tokens more than --max-length "
                f"{self.config.data.max_length} leaves, without anything that may give way"
            )
        cut = sum(read.lost)
        self.counts["prompts cut"] += cut > 0
        self.counts["prompt tokens cut"] += cut
        gold = example.get("gold")
        self.counts["gold passages cut"] += gold is not None and read.lost[gold] > 0
        label = NO_LABEL if example.get("target") is None else KNOWN
        sequences = [self._fitting(read), read.completion]
        return EncodedRow(example["id"], sequences, label, len(read.completion), cut)

    def lengths(self, row: EncodedRow) -> list[int]:
        lengths = super().lengths(row)[:2]
        return [sum(lengths)] if self.kind == "causal" else [max(lengths)]

    def shown(self, row: EncodedRow) -> list[str]:
        prompt, completion = super().shown(row)[:2]
        return [prompt, f"[[{completion}]]"]

    def costs(self, rows: Rows) -> Costs:
        rows = rows.with_first(2)
        return SharedCosts(rows, self.options.draw == "contexts") if self.kind == "causal" else Costs(rows)

    def assemble(self, base: Any, frozen: list[nn.Module]) -> nn.Module:
        causal = self.kind == "causal"
        return (completers.CausalCompleter if causal else completers.Seq2SeqCompleter)(base, frozen)

    def collate(self, rows: Rows, indices: tuple[int, ...], one_call: bool = False) -> TextBatch:
        pairs = [(sequences[0], sequences[1]) for sequences in map(rows.sequences_of, indices)]
        sizes = [len(completion) for _, completion in pairs]
        pad, causal = self.specials.pad, self.kind == "causal"
        inputs = lay(pairs, pad, one_call) if causal else self._sources(pairs, one_call)
        row_of = torch.from_numpy(np.repeat(np.arange(len(pairs)), sizes))
        return TextBatch(inputs, row_of, [bool(rows.labels[row] != NO_LABEL) for row in indices])

    def _sources(self, pairs: list[Pair], one_call: bool) -> completers.SourcesAndTexts:
        begin = np.array([self.described.config.decoder_start_token_id], np.int64)
        starts = matrix([np.concatenate([begin, text[:-1]]) for _, text in pairs], self.specials.pad)
        width = starts.shape[1]
        predictors = [line * width + np.arange(len(text)) for line, (_, text) in enumerate(pairs)]
        targets = np.concatenate([text for _, text in pairs]).astype(np.int64)
        sources = group([prompt for prompt, _ in pairs], self.specials.pad, one_call=one_call)
        prompts, texts = (np.array(list(map(len, column))) for column in zip(*pairs, strict=True))
        return completers.SourcesAndTexts(
            sources,
            torch.from_numpy(starts),
            torch.from_numpy(np.concatenate(predictors)),
            torch.from_numpy(targets),
            sources.amounts.beside_texts(texts, prompts),
            sources.computed_tokens + starts.size,
        )

    def loss(self, output: Likely, batch: TextBatch) -> Tensor:
        return -output.log_probabilities.sum()

    def hits(self, output: Likely, batch: TextBatch) -> Tensor:
        return output.right.sum()

    def predict(self, model: nn.Module, batch: TextBatch) -> list[Prediction]:
        output: Likely = model(batch.inputs)
        row_of, losses = batch.row_of.numpy(), -output.log_probabilities.detach().double().cpu().numpy()
        sums, sizes = np.bincount(row_of, losses), np.bincount(row_of)  # in the order of the tokens
        pairs = zip(batch.known, sums.tolist(), sizes.tolist(), strict=True)
        return [
            Prediction(loss=loss, num_tokens=size) if known else Prediction() for known, loss, size in pairs
        ]

    def writing_batches(self, rows: Rows, which: Sequence[int], token_budget: int) -> list[MicroBatch]:
        wanted, costs = set(which), self.costs(rows)

        def size(piece: list[int]) -> int:
            return costs.tokens(np.array(piece, np.int64)) + len(piece) * self.options.max_new_tokens

        pieces: list[list[int]] = [[]]
        for row in costs.evaluation_order().tolist():
            if row in wanted:
                if pieces[-1] and size([*pieces[-1], row]) > WRITING * token_budget:
                    pieces.append([])
                pieces[-1].append(row)
        return [MicroBatch(number, tuple(piece), float(size(piece))) for number, piece in enumerate(pieces)]

    @property
    def ends(self) -> list[int]:
        """The tokens that end what is written. A chat template ends texts its own way."""
        end = text.end_of(self.tokenizer)
        others = text.ends_of(self.tokenizer) if self.options.chat else []
        return [end] + [sign for sign in others if sign not in (end, self.specials.pad)]

    def write(
        self, model: nn.Module, rows: Rows, indices: tuple[int, ...], between: Callable[[], None]
    ) -> list[Prediction]:
        options = self.options
        ends, pad = self.ends, self.specials.pad
        how = How(options.max_new_tokens, tuple(ends), pad, options.temperature, options.top_p)
        prompts = [to_write(rows, row) for row in indices]
        names = [f"{self.config.optim.seed} {rows.ids[row]}" for row in indices]
        seeds = [zlib.crc32(name.encode("utf-8", "surrogatepass")) for name in names]
        assert isinstance(model, LanguageModel)
        written = write(model, prompts, how, seeds, between)
        return [
            Prediction(
                answer=self.tokenizer.decode(one.ids, skip_special_tokens=True).strip(),
                num_written=len(one.ids),
                ended=one.ended,
                again=one.again,
            )
            for one in written
        ]


def make(recipe: Recipe, config: Config, folder: Path | None) -> Complete:
    """The task with the model's configuration and tokenizer, before any weight is loaded."""
    return Complete(recipe, config, describe(recipe, config, folder))
