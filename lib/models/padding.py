"""Does a model read a row the same alone and padded among longer ones? Families that mix all places of a
tensor (FNet's Fourier transform, convolutions, landmarks) do not, and their numbers would depend on a row's
neighbours. They are told by what they do; there is no list."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lib.base.hub import first_line
from lib.data.collate import TokenGroup, matrix
from lib.models.backbone import Described, is_causal, random
from lib.models.heads import Encoder

# Largest difference of two vectors over their largest number. Of 32 families that leave padding alone the
# worst was at 2e-6 on a CPU; FNet, Nystromformer, YOSO and ConvBERT at 1.1, 0.08, 0.12, 0.03 (four layers of
# 384). Between them, since GPUs add up in other orders.
TOLERANCE = 1e-4
MOST_TRIED = 96  # tokens beside padding: rounding grows with the length, and would be taken for mixing


def refuse_mixing(model: Encoder, described: Described, ids: np.ndarray, pad: int) -> None:
    """As `check`, of a model that is about to be trained. Products with quantized weights round by their
    shape: there the family is asked, with weights of its own. A decoder sees no padding."""
    if getattr(model.backbone, "is_quantized", False):
        if is_causal(described.config):
            return
        model = Encoder(random(described, "encoder"), model.pooling, [])
    was_training = model.training
    check(model.eval().read, ids, pad, f"--model {described.name}")
    model.train(was_training)


@torch.no_grad()  # not inference_mode: weights that ranks share out come and go within
def check(encode: Callable[[TokenGroup], Tensor], ids: np.ndarray, pad: int, name: str) -> None:
    """`encode`: (sequences, length) ids -> (sequences, hidden) in float32; `ids` of one long row. Raises
    ValueError when the beginning of the row is another thing alone than beside the row, when the whole row is
    another thing after it, or when the model cannot be run at all."""
    long = ids[:MOST_TRIED]
    short = long[: max(1, len(long) // 3)]
    mask = (np.arange(len(long))[None, :] < np.array([[len(long)], [len(short)]])).astype(np.int64)
    try:
        whole = encode(TokenGroup(torch.from_numpy(matrix([ids], pad)), None))[0]
        alone = encode(TokenGroup(torch.from_numpy(matrix([short], pad)), None))[0]
        padded = encode(TokenGroup(torch.from_numpy(matrix([long, short], pad)), torch.from_numpy(mask)))[1]
        again = encode(TokenGroup(torch.from_numpy(matrix([ids], pad)), None))[0]
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # each family has its own
        raise ValueError(
            f"{name} cannot be run: {type(error).__name__}: {first_line(error)}; use another model"
        ) from error
    if not all(bool(vector.isfinite().all()) for vector in (whole, alone, padded, again)):
        raise ValueError(
            f"{name} gives a NaN or infinity for a row of {len(ids)} tokens; look at its weights"
        )
    if not float((whole - again).abs().max()) <= TOLERANCE * float(whole.abs().max()):
        raise ValueError(
            f"{name} reads a row of {len(ids)} tokens otherwise after a short one (as BigBird does), "
            "so every number would depend on what was read before; use another model, or a smaller "
            "--max-length"
        )
    difference = float((alone - padded).abs().max() / max(float(alone.abs().max()), 1e-30))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{name} mixes padding into the words: a row alone and the same row beside a longer one differ "
            f"by {100 * difference:.2f} % of their size, so every number would depend on a row's neighbours; "
            "use another model"
        )
