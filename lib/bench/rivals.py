"""The contestants beside ours: the Hugging Face Trainer at its best and at its default, and the plain loop of
the notes. All train the same model on the same rows."""

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.bench.clock import Clock
from lib.bench.sequences import ForTrainer, Layout, layout_of
from lib.bench.setting import Setting


def plain_loop(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """The notes' script: float32, every sequence padded to --max-length, rows in random order."""
    model, rows, config, layout = setting.model(), setting.train, setting.config, layout_of(setting)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optim.lr)
    order_of_rows = np.random.default_rng(config.optim.seed).permutation(len(rows))
    clock = Clock(warm_up=order["warm_up"])
    model.train()
    for begin in range(0, len(rows), config.optim.batch):
        chosen = order_of_rows[begin : begin + config.optim.batch]
        batch = {k: v.to(device) for k, v in layout.padded(rows, chosen, config.data.max_length).items()}
        F.cross_entropy(layout.logits(model, batch), batch["labels"]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick(len(chosen))
    return clock.result()


def _collator(layout: Layout, width: int | None) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
    """The Trainer's collator: all sequences of its rows in one tensor, padded to `width` or the longest."""

    def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
        return layout.padded(layout.setting.train, np.array([item["row"] for item in items]), width)

    return collate


def settings(setting: Setting, order: dict[str, Any], folder: str) -> dict[str, Any]:
    """The Trainer's settings for the same experiment."""
    config, rows, best = setting.config, setting.train, order["best"]
    rows_a_pass = config.optim.batch // order["accumulate"]
    num_steps = config.optim.max_steps or int(np.ceil(len(rows) / config.optim.batch) * config.optim.epochs)
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": folder,
        "per_device_train_batch_size": rows_a_pass,
        "gradient_accumulation_steps": order["accumulate"],
        "num_train_epochs": config.optim.epochs,
        "max_steps": config.optim.max_steps or -1,
        "learning_rate": config.optim.lr,
        "lr_scheduler_type": config.optim.schedule,
        "warmup_steps": int(np.ceil(config.optim.warmup * num_steps)),
        "weight_decay": config.optim.weight_decay,
        "max_grad_norm": 0.0 if order.get("gradient_only") else 1.0,
        "bf16": best and config.optim.precision == "bf16",
        "use_cpu": not on_gpu,
        "optim": "adamw_torch_fused",
        # batches made ahead, as ours are there
        "dataloader_num_workers": 2 if best and on_gpu else 0,
        "dataloader_persistent_workers": best and on_gpu,
        "train_sampling_strategy": "group_by_length" if best and rows_a_pass > 1 else "random",
        "remove_unused_columns": False,
        "seed": config.optim.seed,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def trainer(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """transformers' Trainer: at its best (bf16, rows of like length together, dynamic padding) or at its
    default (float32, random order, padded to --max-length)."""
    import transformers

    config, best, layout = setting.config, order["best"], layout_of(setting)
    model = setting.model()
    if order.get("attention"):
        model.backbone.set_attn_implementation(order["attention"])
    clock = Clock(warm_up=order["warm_up"])
    norms: list[float] = []

    class Tick(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, *arguments: Any, **others: Any) -> None:
            if order.get("gradient_only"):
                gradients = [p.grad for p in model.parameters() if p.grad is not None]
                norms.append(nn.utils.get_total_norm(gradients).item())

        def on_step_end(self, *arguments: Any, **others: Any) -> None:
            clock.tick(config.optim.batch)

    # a row's number, and something of its length by which the Trainer puts like rows together
    data = [{"row": row, "input_ids": range(length)} for row, length in enumerate(layout.longest())]
    with tempfile.TemporaryDirectory() as folder:
        made = transformers.Trainer(
            model=ForTrainer(model, layout),
            args=transformers.TrainingArguments(**settings(setting, order, folder)),
            train_dataset=data,
            data_collator=_collator(layout, None if best else config.data.max_length),
            callbacks=[Tick()],
        )
        if order["loss_kwargs"] is not None:
            made.model_accepts_loss_kwargs = order["loss_kwargs"]
        trained = {"trained": made.train().training_loss}
    if norms:
        return {"gradient_norm": norms[0]}
    return clock.result() | trained | ({"loss": setting.validation_loss(model)} if best else {})
