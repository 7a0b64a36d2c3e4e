"""A row is read the same whatever stands beside it, or its model is refused before it trains."""

from typing import Any

import numpy as np
import pytest
import torch

from lib.models import padding
from lib.models.backbone import Described
from lib.models.heads import Encoder

SIZES = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 192}
IDS = np.random.default_rng(0).integers(5, 99, 40).astype(np.int32)


def made(kind: str) -> tuple[Encoder, Described]:
    import transformers

    words: dict[str, Any] = SIZES | {"vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 0}
    if kind == "funnel":
        words = {"vocab_size": 100, "block_sizes": [1, 1], "d_model": 96, "n_head": 6, "d_inner": 192}
    config = transformers.AutoConfig.for_model(kind, **words)
    config.architectures = ["FunnelModel"] if kind == "funnel" else None
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config)
    for parameter in model.parameters():  # norms and biases begin at 1 and 0, which hides what they do
        parameter.data += 0.02 * torch.randn_like(parameter)
    return Encoder(model, "mean", []), Described(kind, "", config, None)


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta-v2", "mpnet", "modernbert", "llama"])
def test_families_that_leave_padding_alone_train(kind: str) -> None:
    model, described = made(kind)
    padding.refuse_mixing(model.train(), described, IDS, 0)
    assert model.training and model.backbone.training


@pytest.mark.parametrize("kind", ["fnet", "funnel", "convbert", "nystromformer", "yoso"])
def test_families_that_mix_it_into_the_words_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=f"--model {kind} (mixes padding into the words|cannot be run)"):
        padding.refuse_mixing(*made(kind), IDS, 0)


def test_a_family_that_cannot_be_run_says_so() -> None:
    model, described = made("ibert")
    with pytest.raises(ValueError, match="--model ibert cannot be run: AttributeError"):
        padding.refuse_mixing(model, described, IDS, 0)


def test_under_quantized_weights_the_family_is_asked() -> None:
    model, described = made("fnet")
    model.backbone.is_quantized = True
    with pytest.raises(ValueError, match="mixes padding"):
        padding.refuse_mixing(model, described, IDS, 0)


def test_a_model_that_reads_otherwise_after_a_short_row_is_refused() -> None:
    """BigBird goes over to full attention when a row is short, and stays there."""
    import transformers

    sparse = {"attention_type": "block_sparse", "block_size": 8, "num_random_blocks": 1}
    config = transformers.BigBirdConfig(
        **SIZES, **sparse, vocab_size=100, max_position_embeddings=256, pad_token_id=0
    )
    torch.manual_seed(0)
    model = Encoder(transformers.AutoModel.from_config(config), "mean", [])
    ids = np.random.default_rng(0).integers(5, 99, 128).astype(np.int32)
    with pytest.raises(ValueError, match=r"reads a row of 128 tokens otherwise after a short one"):
        padding.refuse_mixing(model, Described("bigbird", "", config, None), ids, 0)


def test_weights_that_are_no_numbers_are_not_taken_for_mixing() -> None:
    model, described = made("bert")
    next(model.parameters()).data[7] = float("nan")
    ids = IDS.copy()
    ids[3] = 7
    with pytest.raises(ValueError, match="gives a NaN or infinity for a row of 40 tokens"):
        padding.refuse_mixing(model, described, ids, 0)
