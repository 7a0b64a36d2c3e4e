"""What is kept while texts are written: the states are those of each row alone."""

from typing import Any

import numpy as np
import pytest
import torch

from lib.models import completers, decoding, tree_attention
from lib.models.cache import SharedCache

WORDS, STEPS = 60, 8
# rows 0, 2, 3 share 40 tokens, 1 and 4 share 25; 5 has one token, 6 shares nothing
SHARED = {0: 0, 2: 0, 3: 0, 1: 1, 4: 1}
SIZES = {0: 3, 2: 9, 3: 1, 1: 2, 4: 2, 5: 1, 6: 12}
ENDS = {1: 0, 3: 4, 4: 1, 5: 6}  # after which step which row


def decoder(kind: str, **more: Any) -> completers.CausalCompleter:
    import transformers

    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.AutoConfig.for_model(kind, vocab_size=WORDS, **(shape | more))
    transformers.set_seed(0)
    model = completers.CausalCompleter(transformers.AutoModelForCausalLM.from_config(config), []).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def prompts() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    begun = [draw.integers(3, WORDS, size) for size in (40, 25)]
    own = {row: draw.integers(3, WORDS, size) for row, size in sorted(SIZES.items())}
    return [
        np.concatenate([begun[SHARED[row]], own[row]] if row in SHARED else [own[row]]).astype(np.int32)
        for row in range(len(SIZES))
    ]


@pytest.mark.parametrize(
    "model",
    [
        decoder("llama"),
        decoder("llama", num_key_value_heads=2),
        decoder("gpt_neox"),
    ],
    ids=["heads", "grouped heads", "part of each head turned"],
)
def test_the_next_token_is_seen_as_in_a_pass_of_the_row_alone(model: Any) -> None:
    rows = prompts()
    with torch.inference_mode(), decoding.installed(model):
        state = decoding.begin(model, rows, 0, STEPS)
        shared = sorted(len(beginning.rows) for beginning in state.cache.beginnings)  # type: ignore[attr-defined]
        assert shared == [1, 2, 3]  # the row of one token has no beginning
        going, texts = list(range(len(rows))), [[] for _ in rows]  # type: ignore[var-annotated]
        for step in range(STEPS):
            logits = state.logits()
            for line, row in enumerate(going):
                alone = state.alone(rows[row], texts[row])[0]
                torch.testing.assert_close(logits[line], alone, rtol=1e-4, atol=1e-4)
            if step == STEPS - 1:
                break
            left = [row for row in going if row != ENDS.get(step)]
            tokens = [(7 * row + step) % WORDS for row in left]
            for row, token in zip(left, tokens, strict=True):
                texts[row].append(token)
            state.go_on([going.index(row) for row in left], tokens)
            going = left
        assert len(state.cache.beginnings) < 3  # type: ignore[attr-defined]


def test_the_model_attends_as_before_when_nothing_is_written() -> None:
    model = decoder("llama")
    before = model.backbone.config._attn_implementation
    ids = torch.arange(3, 23)[None]
    plain = model.backbone(ids).logits
    with pytest.raises(ZeroDivisionError), decoding.installed(model):
        inside = model.backbone(ids).logits  # no cache is read: SDPA
        with SharedCache([], 3, 1).reading():
            assert SharedCache.active is not None
            raise ZeroDivisionError
    assert SharedCache.active is None and model.backbone.config._attn_implementation == before
    torch.testing.assert_close(inside, plain, rtol=0, atol=1e-6)


def test_what_all_of_a_tree_share_needs_no_mask() -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 12, 8, generator=draw).unbind()
    # 7 tokens, then two texts of 3 and 2 that do not see each other
    part = torch.tensor([0] * 7 + [1] * 3 + [2] * 2)
    mask = (part == 0) | (part[:, None] == part)
    mask = (mask & torch.ones(12, 12, dtype=torch.bool).tril())[None, None].expand(2, 1, 12, 12).clone()
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2)
    mask[:, :, :7] = False  # nobody looks there
    found, _ = tree_attention.attention(torch.nn.Module(), query, key, value, mask, shared_beginning=7)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
