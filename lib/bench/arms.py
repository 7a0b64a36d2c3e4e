"""The contestants of `scripts/bench.py arena`: the same model on the same rows, each in a process of its own.

An arm is told what to do by a JSON object on its command line and answers with one as its last line.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib import recipe as recipes
from lib.bench.clock import Clock
from lib.config import Config
from lib.data import rows as encoded_rows
from lib.data import sources, splits
from lib.data.collate import Grouped, TokenGroup
from lib.data.rows import Rows
from lib.evaluation import evaluate, metrics
from lib.models.heads import Classifier
from lib.models.placement import place
from lib.run import make_loader
from lib.tasks import make as make_task
from lib.tasks.classify import Classify
from lib.training import dist
from lib.training.engine import Ddp, freeze_unused
from lib.training.loop import draw_of
from lib.training.optim import learning_rate


@dataclass
class Setting:
    """What all arms share."""

    config: Config
    task: Classify
    train: Rows
    validation: Rows

    def model(self) -> Classifier:
        """The same fresh model for every arm with this seed; its unused pooler frozen."""
        model: Any = self.task.build(None)
        freeze_unused(model, [p for name, p in model.named_parameters() if "pooler" not in name])
        return model


def prepare(order: dict[str, Any]) -> Setting:
    recipe = recipes.load("arena")
    config = recipe.config
    model = replace(config.model, attention_dropout=order.get("attention_dropout", 0.0))
    if order.get("no_dropout"):
        model = replace(model, dropout=0.0)
    config = replace(
        config,
        model=model,
        data=replace(config.data, data=order["data"], max_length=order["max_length"], swap=False),
        optim=replace(config.optim, batch=order["batch"], epochs=1, seed=order["seed"], precision="bf16"),
    )
    task = make_task(recipe, config)
    assert isinstance(task, Classify)
    found = splits.complete(splits.make(sources.load(config.data, recipe), recipe), config.data).splits
    train = encoded_rows.pack(task.encode(found["train"][: order["rows"]]))
    validation = encoded_rows.pack(task.encode(found["validation"][: order["validation_rows"]]))
    return Setting(config, task, train, validation)


def ours(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """The loop's own parts: loader, engine, task."""
    config, task = setting.config, setting.task
    world = dist.setup(order["threads"])
    model = place(setting.model(), world.device, "bf16")
    engine, loader = Ddp(model, config, world, "bf16"), make_loader(config, setting.train)
    clock = Clock()
    for number in range(1, loader.num_steps + 1):
        step = loader.step(number)
        for piece in step.micro_batches:
            batch = task.collate(setting.train, piece.rows)
            loss = task.loss(engine.forward(batch, draw_of(config.optim.seed, number, piece.number)), batch)
            engine.backward(loss, 1 / step.num_targets, last=True)
        engine.step(learning_rate(number, loader.num_steps, config.optim))
        clock.tick(step.num_rows)
    return clock.result() | {"loss": validation_loss(model, setting)}


def padding(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """Real / computed tokens of a whole epoch: what is computed is a function of the rows alone."""
    loader = make_loader(setting.config, setting.train)
    batches = [
        setting.task.collate(setting.train, piece.rows)
        for number in range(1, loader.num_steps + 1)
        for piece in loader.step(number).micro_batches
    ]
    real, computed = (sum(getattr(b, f"{what}_tokens") for b in batches) for what in ("real", "computed"))
    return {"real_share": real / computed, "rows": len(setting.train)}


def plain_loop(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """The notes' script: float32, every sequence padded to --max-length, rows in random order."""
    model, rows, config = setting.model(), setting.train, setting.config
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.optim.lr)
    order_of_rows = np.random.default_rng(config.optim.seed).permutation(len(rows))
    clock = Clock(warm_up=order["warm_up"])
    model.train()
    for begin in range(0, len(rows), config.optim.batch):
        chosen = order_of_rows[begin : begin + config.optim.batch]
        logits = model(padded(rows, chosen, setting.task.specials.pad, config.data.max_length))[:, 0]
        F.cross_entropy(logits, torch.from_numpy(rows.labels[chosen])).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick(len(chosen))
    return clock.result()


def padded(rows: Rows, chosen: np.ndarray, pad: int, width: int | None) -> Grouped:
    """Both texts of the chosen rows in one tensor, padded to `width`, or to the longest of them."""
    sequences = [sequence for row in chosen for sequence in rows.sequences_of(int(row))]
    lengths = np.array([len(ids) for ids in sequences])
    width = width or int(lengths.max())
    ids = np.full((len(sequences), width), pad, dtype=np.int64)
    for place_, sequence in enumerate(sequences):
        ids[place_, : len(sequence)] = sequence
    mask = torch.from_numpy((np.arange(width) < lengths[:, None]).astype(np.int64))
    group = TokenGroup(torch.from_numpy(ids), mask)
    return Grouped([group], torch.arange(len(sequences)), int(lengths.sum()), ids.size)


class ForTrainer(nn.Module):
    """The same classifier with the outputs that the Hugging Face Trainer expects. Like transformers' own
    classifiers it takes **kwargs, and the Trainer concludes that it divides the loss, which neither does."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **others: Any
    ) -> dict[str, Tensor]:
        grouped = Grouped([TokenGroup(input_ids, attention_mask)], torch.arange(len(input_ids)), 0, 0)
        logits = self.model(grouped)[:, 0]
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def trainer_collate(
    setting: Setting, width: int | None
) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
    """The Trainer's collator: both texts of its rows in one tensor, padded to `width` or to the longest."""

    def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
        chosen = np.array([item["row"] for item in items])
        (group,) = padded(setting.train, chosen, setting.task.specials.pad, width).groups
        assert group.mask is not None
        labels = torch.from_numpy(setting.train.labels[chosen])
        return {"input_ids": group.ids, "attention_mask": group.mask, "labels": labels}

    return collate


def trainer_arguments(setting: Setting, order: dict[str, Any], folder: str) -> Any:
    """The Trainer's settings for the same experiment."""
    import transformers

    config, rows, best = setting.config, setting.train, order["best"]
    return transformers.TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=config.optim.batch // order["accumulate"],
        gradient_accumulation_steps=order["accumulate"],
        num_train_epochs=1,
        learning_rate=config.optim.lr,
        warmup_steps=int(np.ceil(0.1 * np.ceil(len(rows) / config.optim.batch))),
        weight_decay=config.optim.weight_decay,
        max_grad_norm=1.0 if order["accumulate"] == 1 else 0.0,
        bf16=best,
        use_cpu=True,
        train_sampling_strategy="group_by_length" if best else "random",
        length_column_name="length",
        remove_unused_columns=False,
        seed=config.optim.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def trainer(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """transformers' Trainer: at its best (bf16, rows of like length together, dynamic padding) or at its
    default (float32, random order, padded to --max-length)."""
    import transformers

    config, rows, best = setting.config, setting.train, order["best"]
    model = setting.model()
    if order.get("attention"):
        model.backbone.set_attn_implementation(order["attention"])

    clock = Clock(warm_up=order["warm_up"])

    norms: list[float] = []

    class Tick(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, *arguments: Any, **others: Any) -> None:
            if order["accumulate"] > 1:  # asked for the gradient, not for speed
                norms.append(
                    nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()
                )

        def on_step_end(self, *arguments: Any, **others: Any) -> None:
            clock.tick(config.optim.batch)

    import datasets

    lengths = rows.longest_by_row().tolist()
    data = datasets.Dataset.from_dict({"row": list(range(len(rows))), "length": lengths})
    with tempfile.TemporaryDirectory() as folder:
        made = transformers.Trainer(
            model=ForTrainer(model),
            args=trainer_arguments(setting, order, folder),
            train_dataset=data,
            data_collator=trainer_collate(setting, None if best else config.data.max_length),
            callbacks=[Tick()],
        )
        if order["loss_kwargs"] is not None:
            made.model_accepts_loss_kwargs = order["loss_kwargs"]
        made.train()
    if norms:
        return {"gradient_norm": norms[0]}
    return clock.result() | ({"loss": validation_loss(model, setting)} if best else {})


def gradient(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """The norm of our gradient of the first step, rows as the Trainer draws them: all of them."""
    config, task = setting.config, setting.task
    model = setting.model()
    model.train()
    batch = task.collate(setting.train, tuple(range(len(setting.train))))
    (task.loss(model(batch.inputs), batch) / config.optim.batch).backward()
    return {
        "gradient_norm": nn.utils.get_total_norm(
            [p.grad for p in model.parameters() if p.grad is not None]
        ).item()
    }


def all_reduce(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """Seconds that the exchange of one whole gradient takes between two otherwise idle ranks."""
    import torch.distributed as torch_dist

    dist.setup(1)
    size = sum(parameter.numel() for parameter in setting.model().parameters() if parameter.requires_grad)
    flat = torch.zeros(size)
    seconds = []
    for _ in range(8):
        dist.barrier()
        began_s = time.perf_counter()
        torch_dist.all_reduce(flat)
        seconds.append(time.perf_counter() - began_s)
    dist.leave()
    return {"seconds": sorted(seconds)[4]}


def validation_loss(model: Classifier, setting: Setting) -> float:
    """Log loss on the validation rows, computed the same way for every arm."""
    world = dist.World(0, 1, torch.device("cpu"), "", torch.get_num_threads())
    task: Any = setting.task
    said = evaluate.predict(model, task, setting.validation, 8192, world, "bf16")
    return metrics.log_loss(said)


ARMS = {
    "ours": ours,
    "padding": padding,
    "trainer": trainer,
    "plain loop": plain_loop,
    "gradient": gradient,
    "all-reduce": all_reduce,
}


def main(order: dict[str, Any]) -> None:
    torch.set_num_threads(order["threads"])
    result = ARMS[order["arm"]](prepare(order), order)
    print(json.dumps(result | {"load": os.getloadavg()[0]}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
