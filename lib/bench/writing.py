"""Texts written by our model through the Predictor, and by transformers' generate row by row."""

from typing import Any

import torch

from lib.bench.clock import now, rates
from lib.bench.setting import Setting
from lib.models.placement import place
from lib.tasks.complete import to_write


def write(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """Ours: as predict.py writes."""
    predictor = setting.predictor(torch.nn.Module())
    world = predictor.world
    predictor.model = place(setting.model(), world.device)
    rows = setting.train
    list(predictor.texts(rows, [0]))  # kernels and allocators settle
    began = now()
    predictions = {row["id"]: row for some in predictor.texts(rows, range(len(rows))) for row in some}
    ended = now()
    again = sum(row["again"] for row in predictions.values())
    texts = [predictions[name]["answer"] for name in rows.ids]
    return rates(len(rows), began, ended) | {"texts": texts, "again": again}


def generate(setting: Setting, order: dict[str, Any]) -> dict[str, Any]:
    """transformers: the likeliest token each time, keys and values kept, one row after the other."""
    task, rows = setting.task, setting.train
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    model = setting.model().backbone.eval().to(device)
    how: dict[str, Any] = {"max_new_tokens": setting.config.task.max_new_tokens, "do_sample": False}  # type: ignore[attr-defined]
    how |= {"use_cache": True, "pad_token_id": setting.pad, "eos_token_id": task.tokenizer.eos_token_id}

    def one(row: int) -> str:
        ids = torch.from_numpy(to_write(rows, row))[None].long().to(device)
        written = model.generate(ids, attention_mask=torch.ones_like(ids), **how)[0, ids.shape[1] :]
        return task.tokenizer.decode(written.tolist(), skip_special_tokens=True).strip()

    with torch.inference_mode():
        one(0)
        began = now()
        texts = [one(row) for row in range(len(rows))]
    return rates(len(rows), began, now()) | {"texts": texts, "max_new_tokens": how["max_new_tokens"]}
