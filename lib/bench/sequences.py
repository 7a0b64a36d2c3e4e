"""How others lay out a row: one sequence of its own for each text or option, padded, and what a model makes
of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.bench.setting import Setting
from lib.data.amounts import Amounts
from lib.data.collate import Grouped, TokenGroup, matrix
from lib.data.rows import Rows
from lib.data.tree import Widths
from lib.models.choosers import Options
from lib.models.language import LanguageModel

IGNORED = -100  # the label of a token without loss, as transformers writes it


@dataclass(frozen=True)
class Layout:
    """A kind of row: its sequences, and the logits a model gives for a padded batch of them."""

    setting: Setting

    def sequences(self, row: int) -> list[np.ndarray]:
        return self.setting.train.sequences_of(row)

    def longest(self) -> list[int]:
        """Of each row, for rows of like length to come together."""
        return [max(map(len, self.sequences(row))) for row in range(len(self.setting.train))]

    def padded(self, rows: Rows, chosen: np.ndarray, width: int | None) -> dict[str, Tensor]:
        """All sequences of the chosen rows in one tensor, padded to `width`, or to the longest of them."""
        by_row = [self.sequences(int(row)) for row in chosen]
        flat = [sequence for row in by_row for sequence in row]
        lengths = np.array([len(ids) for ids in flat])
        ids = matrix(flat, self.setting.pad)
        if width is not None:
            ids = np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=self.setting.pad)
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy((np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)),
            "labels": torch.from_numpy(rows.labels[chosen]),
            "widths": torch.tensor([len(row) for row in by_row]),  # the Trainer passes tensors on
        }

    def logits(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """(rows, classes or options)"""
        ids = batch["input_ids"]
        grouped = Grouped([TokenGroup(ids, batch["attention_mask"])], torch.arange(len(ids)), Amounts(), 0)
        if self.setting.task.__class__.__name__ == "Classify":
            return model(grouped)[:, 0]
        return model(Options(grouped, Widths.of(batch["widths"].tolist())))


@dataclass(frozen=True)
class PromptAndOption(Layout):
    """A decoder reads context, question and option for each option, and gives logits for every token."""

    def sequences(self, row: int) -> list[np.ndarray]:
        prefix, *options = super().sequences(row)
        return [np.concatenate([prefix, option]) for option in options]

    def padded(self, rows: Rows, chosen: np.ndarray, width: int | None) -> dict[str, Tensor]:
        batch = super().padded(rows, chosen, width)
        targets = torch.full_like(batch["input_ids"], IGNORED)
        place = 0
        for row in chosen:
            prefix, *options = super().sequences(int(row))
            for option in options:
                end = len(prefix) + len(option)
                targets[place, len(prefix) : end] = torch.from_numpy(option.astype(np.int64))
                place += 1
        return batch | {"targets": targets}

    def logits(self, model: LanguageModel, batch: dict[str, Tensor]) -> Tensor:
        logits = model.backbone(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits[:, :-1]
        targets = batch["targets"][:, 1:]
        losses = F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
        ).view(targets.shape)
        return Widths.of(batch["widths"].tolist()).table(-losses.sum(1) / (targets != IGNORED).sum(1))


def layout_of(setting: Setting) -> Layout:
    """As the order's task and model need it."""
    causal = getattr(setting.task, "kind", "") == "causal"
    return PromptAndOption(setting) if causal else Layout(setting)


class ForTrainer(nn.Module):
    """The same model with the outputs that the Hugging Face Trainer expects. Like transformers' own
    classifiers it takes **kwargs, and the Trainer concludes that it divides the loss, which neither does."""

    def __init__(self, model: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.model, self.layout = model, layout

    def forward(self, input_ids: Tensor, labels: Tensor, **others: Tensor) -> dict[str, Tensor]:
        logits = self.layout.logits(self.model, {"input_ids": input_ids, **others})
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}
