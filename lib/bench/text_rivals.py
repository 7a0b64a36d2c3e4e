"""Rivals of the recipes that write texts: the Hugging Face Trainer and trl's SFTTrainer at their best, each
with its own collator and its own loss, on the model of transformers that ours holds."""

import copy
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lib.bench.clock import Clock
from lib.bench.rivals import settings
from lib.bench.sequences import IGNORED
from lib.bench.setting import Setting

# A few thousandths of a row's loss are rounding: LoRA's matrices are moved so far that they count.
SHAKEN = 0.02
CHECKED = 16  # rows whose losses are compared


def texts(setting: Setting) -> list[dict[str, list[int]]]:
    """All rows as both trainers take them: one sequence a row, no loss on the prompt."""
    pairs = [setting.train.sequences_of(row)[:2] for row in range(len(setting.train))]
    return [
        {
            "input_ids": np.concatenate(pair).tolist(),
            "labels": [IGNORED] * len(pair[0]) + pair[1].tolist(),
        }
        for pair in pairs
    ]


def trainer(setting: Setting, model: Any, arguments: dict[str, Any], ticks: list[Any]) -> Any:
    """transformers' Trainer: batches padded to their longest row, attention of sdpa."""
    import transformers

    tokenizer = _with_padding(setting)
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(**arguments),
        train_dataset=texts(setting),  # type: ignore[arg-type]
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
        callbacks=ticks,
    )


def sft_trainer(setting: Setting, model: Any, arguments: dict[str, Any], ticks: list[Any]) -> Any:
    """trl's SFTTrainer. Neither packing (no two rows fit into --max-length) nor padding-free batches, which
    need FlashAttention: on a CPU they are one sequence with a mask, and slower."""
    try:
        import trl
    except ImportError as error:
        raise ValueError("the SFTTrainer needs a package: pip install trl==1.16.0") from error
    import datasets

    arguments |= {"gradient_checkpointing": False, "dataset_kwargs": {"skip_prepare_dataset": True}}
    return trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**arguments, max_length=None),
        train_dataset=datasets.Dataset.from_list(texts(setting)),
        processing_class=_with_padding(setting),
        callbacks=ticks,
    )


def _with_padding(setting: Setting) -> Any:
    tokenizer = copy.deepcopy(setting.task.tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


MAKERS: dict[str, Callable[..., Any]] = {"Trainer": trainer, "SFTTrainer": sft_trainer}


def train(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """The trainer that `order["maker"]` names, over the rows or --max-steps."""
    import transformers

    clock = Clock(warm_up=order["warm_up"])

    class Tick(transformers.TrainerCallback):
        def on_step_end(self, *arguments: Any, **others: Any) -> None:
            clock.tick(setting.config.optim.batch)

    model = setting.model()
    with tempfile.TemporaryDirectory() as folder:
        arguments = settings(setting, order, folder)
        made = MAKERS[order["maker"]](setting, model.backbone, arguments, [Tick()])
        trained = made.train().training_loss
    return clock.result() | {"trained": trained, "loss": setting.validation_loss(model)}


def losses(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """The largest difference, of some rows' losses for each token, to what our model says of each row alone:
    of ours where rows share what they begin with, and of what each trainer computes."""
    rows, model = setting.train, setting.model().eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += SHAKEN * torch.randn_like(parameter)
    chosen = range(min(CHECKED, len(rows)))
    predictor = setting.predictor(model)
    alone = [predictor.answer(rows, (row,))[0]["loss"] for row in chosen]
    together = [row["loss"] for row in predictor.answer(rows, tuple(chosen))]
    sizes = rows.num_targets[list(chosen)]
    found = {"ours, all together": _largest(np.array(together), np.array(alone), sizes)}
    with tempfile.TemporaryDirectory() as folder:
        for name in order["makers"]:
            arguments = settings(setting, order | {"best": True, "accumulate": 1}, folder)
            made = MAKERS[name](setting, model.backbone, arguments, [])
            theirs = [_loss(made, [made.train_dataset[row]]) for row in chosen]
            found[name] = _largest(np.array(theirs) * sizes, np.array(alone), sizes)
            batch = _loss(made, [made.train_dataset[row] for row in chosen])  # padded
            found[f"{name}, a batch"] = abs(batch - sum(alone) / sizes.sum())
    return {"differences": found, "rows": len(chosen)}


def _largest(losses: np.ndarray, alone: np.ndarray, sizes: np.ndarray) -> float:
    return float((np.abs(losses - alone) / sizes).max())


def _loss(made: Any, rows: list[dict[str, list[int]]]) -> float:
    """What a trainer computes of these rows as one batch, the mean of their tokens."""
    with torch.inference_mode(), made.compute_loss_context_manager():
        return float(made.compute_loss(made.model, made.data_collator(rows)))
