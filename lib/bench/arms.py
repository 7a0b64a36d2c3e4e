"""One contestant in a process of its own: told what to do by a JSON object on its command line, it answers
with one as its last line."""

import json
import os
import sys
from typing import Any

import torch

from lib.base import exits
from lib.bench import head, ours, rivals, shares, text_rivals, writing
from lib.bench.setting import prepare
from lib.bench.shaped import Shaped
from lib.bench.shaped import prepare as prepare_shaped
from lib.process import dist

ARMS = {
    "ours": ours.train,
    "padding": ours.padding,
    "gradient": ours.gradient,
    "all-reduce": ours.all_reduce,
    "trainer": rivals.trainer,
    "plain loop": rivals.plain_loop,
    "text trainer": text_rivals.train,
    "losses": text_rivals.losses,
    "write": writing.write,
    "generate": writing.generate,
}
WITHOUT_ROWS = {"output layer": ours.output_layer, "head": head.measure, "shares": shares.measure}


def main(order: dict[str, Any]) -> None:
    torch.set_num_threads(order["threads"])
    if order["arm"] in WITHOUT_ROWS:
        result = WITHOUT_ROWS[order["arm"]](order)
    else:
        setting = prepare_shaped(order) if "shape" in order else prepare(order)
        result = ARMS[order["arm"]](setting, order)
        if isinstance(setting, Shaped):
            result |= setting.work()
    if dist.env_is_main():
        print(json.dumps(result | {"load": os.getloadavg()[0]}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
    exits.leave(exits.DONE)
