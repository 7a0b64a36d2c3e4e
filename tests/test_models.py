"""Backbones of every encoder family, the head on them, freezing, and the kernels that CPUs get."""

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lib import recipe as recipes
from lib.base import tensor_file
from lib.config import Config, DataConfig, ModelConfig
from lib.data.amounts import Amounts
from lib.data.collate import Grouped, TokenGroup
from lib.data.rows import pack
from lib.models import backbone, cpu_attention, cpu_dropout, freezing, heads, tiny
from lib.models.heads import Classifier, HeadShape
from lib.models.placement import place
from lib.process import precision
from lib.recipe import Example
from lib.tasks.classify import Classify

ARENA = recipes.load("arena")
MAX_POSITIONS = 48
ROBERTA_LIKE = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "xmod", "luke")
# What `--freeze bottom` freezes of three blocks: everything before them, and floor(3 / 2) = 1 block.
BOTTOM = {
    "distilbert": ["embeddings.", "transformer.layer.0."],
    "bert": ["embeddings.", "encoder.layer.0."],
    "roberta": ["embeddings.", "encoder.layer.0."],
    "electra": ["embeddings.", "embeddings_project.", "encoder.layer.0."],
    "deberta": ["embeddings.", "encoder.rel_embeddings.", "encoder.layer.0."],
    "deberta-v2": [
        *("embeddings.", "encoder.rel_embeddings.", "encoder.LayerNorm.", "encoder.conv."),
        "encoder.layer.0.",
    ],
    "deberta-v2 absolute": ["embeddings.", "encoder.layer.0."],
    "modernbert": ["embeddings.", "layers.0."],
}
FAMILIES = [*BOTTOM, "albert"]
OWN_ATTENTION = ("deberta-v2", "deberta-v2 absolute")
# transformers' first deberta cannot run under bf16 autocast: it fills bf16 scores with float32's minimum.
IN_BF16 = [family for family in FAMILIES if family != "deberta"]


def toy(family: str, **values: Any) -> Any:
    """A configuration of three narrow blocks."""
    import transformers

    relative = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
    special: dict[str, dict[str, Any]] = {
        "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48},
        "electra": {"embedding_size": 16},
        "albert": {"embedding_size": 16},
        "deberta": relative,
        # as deberta-v3-base (and the convolution of v2-xlarge)
        "deberta-v2": relative
        | {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
        | {"conv_kernel_size": 3, "conv_act": "gelu"},
        "deberta-v2 absolute": {"relative_attention": False, "position_biased_input": True},
        # sees 4 tokens to each side in two of three blocks
        "modernbert": {
            "local_attention": 8,
            "global_attn_every_n_layers": 3,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        | {"cls_token_id": 1, "sep_token_id": 2},
        "longformer": {"attention_window": [4] * 3},
        "luke": {"entity_vocab_size": 5, "entity_emb_size": 8},
        "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    }
    width = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    given = {} if family == "distilbert" else width
    given |= {
        "vocab_size": len(tiny.tokenizer()),
        "pad_token_id": 0,
        "max_position_embeddings": MAX_POSITIONS,
    }
    return transformers.AutoConfig.for_model(family.split()[0], **(given | special.get(family, {}) | values))


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's toy with random weights and the byte tokenizer, as a hub model comes."""

    @cache
    def make(family: str) -> Path:
        import transformers

        folder = tmp_path_factory.mktemp("model")
        torch.manual_seed(1)
        transformers.AutoModel.from_config(toy(family)).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
        return folder

    return make


def task_of(folder: Path, **values: Any) -> Classify:
    config = Config(data=DataConfig(max_length=40), model=ModelConfig(model=str(folder), **values))
    return Classify(ARENA, config, backbone.describe(config.model, "encoder"))


def batch_of(task: Classify, lengths: list[tuple[int, int]]) -> Any:
    """Rows with texts of so many bytes."""
    rows = [
        Example(id=str(number), context=["why"], texts=[["a" * first], ["b" * second]], label=number % 3)
        for number, (first, second) in enumerate(lengths)
    ]
    return task.collate(pack(task.encode(rows)), tuple(range(len(rows))))


def grouped(lengths: list[int]) -> Grouped:
    """Sequences of random ids, all in one padded tensor."""
    draw = torch.Generator().manual_seed(sum(lengths))
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(4, 200, (length,), generator=draw)
        mask[row, :length] = 1
    group = TokenGroup(ids, None if len(set(lengths)) == 1 else mask)
    return Grouped([group], torch.arange(len(lengths)), Amounts(), ids.numel())


def unpadded(padded: Grouped) -> Grouped:
    """The same sequences, each in a tensor of its own."""
    (group,) = padded.groups
    lengths = [group.ids.shape[1]] * len(group.ids) if group.mask is None else group.mask.sum(1).tolist()
    groups = [TokenGroup(ids[None, :length], None) for ids, length in zip(group.ids, lengths, strict=True)]
    return Grouped(groups, padded.order, Amounts(), sum(lengths))


# every family


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_trains_and_every_used_weight_gets_a_gradient(
    family: str, folder_of: Callable[[str], Path]
) -> None:
    task = task_of(folder_of(family))
    task.check()
    model = task.build().train()
    batch = batch_of(task, [(5, 9), (0, 30), (12, 12), (7, 1)])
    loss = task.loss(model(batch.inputs), batch)
    assert loss.dtype == torch.float32 and loss.ndim == 0
    # new heads say almost the same of every class: about ln 3 a row
    assert 0.5 * 4 * math.log(3) < loss.item() < 2 * 4 * math.log(3)
    loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert all("pooler" in name for name in without), without
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("pooling", ["first", "mean", "last"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_change_what_a_row_gets(
    family: str, pooling: str, folder_of: Callable[[str], Path]
) -> None:
    model = task_of(folder_of(family), pooling=pooling).build().eval()
    together = grouped([40, 7, 23, 24])
    with torch.inference_mode():
        logits, single = model(together), model(unpadded(together))  # (2 rows, 2 orders, 3 classes)
    assert (logits - single).abs().max() < 1e-5
    assert (logits[0] - logits[1]).abs().max() > 1e-4  # the rows do differ


@pytest.mark.parametrize("family", FAMILIES)
def test_one_look_up_for_all_groups_gives_what_the_backbone_looks_up_itself(
    family: str, folder_of: Callable[[str], Path]
) -> None:
    model = task_of(folder_of(family)).build().eval()
    padded, plain = grouped([40, 7]), grouped([9, 9])
    together = Grouped([*padded.groups, *plain.groups], torch.arange(4), Amounts(), 98)
    expected = []
    with torch.inference_mode():
        for group in together.groups:
            found = model.backbone(input_ids=group.ids, attention_mask=group.mask).last_hidden_state
            expected.append(heads.pool(found, group.mask, "mean"))
        assert torch.allclose(model.vectors(together).flatten(0, 1), torch.cat(expected), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_comes_back_bit_for_bit(
    family: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    task = task_of(folder_of(family), freeze="none")
    model = task.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    task.save(model, model.state_dict(), tmp_path)
    again = task.build(tmp_path).eval()
    together = grouped([40, 7, 23, 24])
    with torch.inference_mode():
        assert torch.equal(model(together), again(together))
    assert tensor_file.fingerprint(again.state_dict()) == tensor_file.fingerprint(model.state_dict())


@pytest.mark.parametrize("family", dict.fromkeys([*FAMILIES, *ROBERTA_LIKE]))
def test_the_longest_sequence_is_what_the_position_table_holds(family: str) -> None:
    import transformers

    described = backbone.Described(family, "", toy(family, pad_token_id=1), None)
    model = transformers.AutoModel.from_config(described.config).eval()

    def run(length: int) -> None:
        ids = torch.full((1, length), 5)
        with torch.inference_mode():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))

    # Roberta and its like count positions from pad + 1 = 2, so 48 - 2 remain; deberta without absolute
    # positions has no end.
    limit: int | None = MAX_POSITIONS - 2 if family in ROBERTA_LIKE else MAX_POSITIONS
    limit = None if family in ("deberta", "deberta-v2") else limit
    assert described.max_positions == limit
    run(limit or 3 * MAX_POSITIONS)
    if limit is not None and family != "modernbert":  # rotary positions are only trained up to there
        with pytest.raises((IndexError, RuntimeError)):
            run(limit + 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_0_switches_every_dropout_off(family: str, folder_of: Callable[[str], Path]) -> None:
    together = grouped([24, 24])
    for dropout in (0.0, 0.3):
        model = task_of(folder_of(family), dropout=dropout, attention_dropout=dropout).build().train()
        torch.manual_seed(0)
        assert torch.equal(model(together), model(together)) == (dropout == 0)


def test_attention_dropout_is_off_unless_asked_for() -> None:
    for family in FAMILIES:
        config = backbone._with_dropout(toy(family), ModelConfig())
        found = [getattr(config, key) for key in backbone.ATTENTION_DROPOUTS if hasattr(config, key)]
        assert found == [0.0], family


# freezing


@pytest.mark.parametrize("family", BOTTOM)
def test_bottom_is_what_comes_before_the_blocks_and_their_lower_half(
    family: str, folder_of: Callable[[str], Path]
) -> None:
    model = task_of(folder_of(family), freeze="bottom").build()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    expected = tuple(f"backbone.{prefix}" for prefix in BOTTOM[family])
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(expected)}
    assert all(any(name.startswith(prefix) for name in frozen) for prefix in expected)


@pytest.mark.parametrize(("num_layers", "num_frozen"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_the_lower_half_is_rounded_down(num_layers: int, num_frozen: int) -> None:
    import transformers

    model = transformers.AutoModel.from_config(toy("bert", num_hidden_layers=num_layers))
    freezing.freeze(model, "bottom")
    trains = [all(p.requires_grad for p in block.parameters()) for block in model.encoder.layer]
    assert trains == [False] * num_frozen + [True] * (num_layers - num_frozen)


def test_each_stack_of_an_encoder_decoder_has_a_lower_half() -> None:
    import transformers

    # a block of T5's decoder is itself a list of 3 layers, as many as there are blocks
    config = transformers.T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=24, num_heads=2, num_layers=4, num_decoder_layers=3
    )
    model = transformers.AutoModel.from_config(config)
    freezing.freeze(model, "bottom")
    expected = ("shared.", "encoder.block.0.", "encoder.block.1.", "decoder.block.0.")
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (not name.startswith(expected)), name


def test_shared_blocks_have_no_lower_half(folder_of: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="albert share their weights.*--freeze none or --freeze all"):
        task_of(folder_of("albert"), freeze="bottom").build()


@pytest.mark.parametrize("family", FAMILIES)
def test_freeze_all_trains_the_head_alone(family: str, folder_of: Callable[[str], Path]) -> None:
    model = task_of(folder_of(family), freeze="all").build()
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trains == {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}


@pytest.mark.parametrize("freeze", ["none", "bottom", "all"])
@pytest.mark.parametrize("family", ["bert", "modernbert", "electra"])
def test_frozen_parts_run_without_dropout_and_the_others_with_it(
    family: str, freeze: str, folder_of: Callable[[str], Path]
) -> None:
    model = task_of(folder_of(family), freeze=freeze).build()
    for _ in range(2):  # after train() as after eval() and train()
        model.eval().train()
        for name, module in model.named_modules():
            own = list(module.parameters())
            if own and all(not p.requires_grad for p in own):
                assert not any(inner.training for inner in module.modules()), name
        running = [module for module in model.modules() if isinstance(module, nn.Dropout) and module.training]
        assert bool(running) == (freeze != "all")
    assert not any(module.training for module in model.eval().modules())


def test_frozen_names_say_runs_of_like_names_once(folder_of: Callable[[str], Path]) -> None:
    # A BERT block has 6 linear layers and 2 norms, each with a weight and a bias; the embeddings are 3 tables
    # and a norm.
    model = task_of(folder_of("bert"), freeze="bottom").build()
    assert freezing.frozen_names(model) == ["backbone.embeddings.* (5)", "backbone.encoder.layer.0.* (16)"]


# the head


def test_pooling_leaves_padding_out() -> None:
    states = torch.tensor([[[1.0], [2.0], [6.0]], [[1.0], [3.0], [99.0]]])  # the 99 is padding
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert heads.pool(states, mask, "mean").tolist() == [[3], [2]]
    assert heads.pool(states, mask, "first").tolist() == [[1], [1]]
    assert heads.pool(states, mask, "last").tolist() == [[6], [3]]
    for how in ("mean", "first", "last"):
        whole = torch.ones_like(mask)
        assert torch.equal(heads.pool(states, None, how), heads.pool(states, whole, how))


def test_the_vectors_of_a_row_stand_side_by_side_in_their_order(folder_of: Callable[[str], Path]) -> None:
    model = task_of(folder_of("bert")).build().eval()
    together = grouped([9, 9, 9, 9])
    turned = Grouped(together.groups, torch.tensor([1, 0, 3, 2]), Amounts(), 36)
    with torch.inference_mode():
        assert torch.equal(model.vectors(turned), model.vectors(together).flip(1))


def test_swapped_predictions_are_those_of_swapped_texts(folder_of: Callable[[str], Path]) -> None:
    task = task_of(folder_of("bert"))
    model = task.build().eval()
    with torch.inference_mode():
        straight = task.predict(model, batch_of(task, [(5, 30), (12, 3)]))
        texts = [
            Example(id="", context=["why"], texts=[["b" * b], ["a" * a]], label=0)
            for a, b in ((5, 30), (12, 3))
        ]
        turned = task.predict(model, task.collate(pack(task.encode(texts)), (0, 1)))
    for one, other in zip(straight, turned, strict=True):
        a_wins, b_wins, tie = other["probabilities"]
        assert one["swapped"] == pytest.approx([b_wins, a_wins, tie], abs=1e-6)
        assert one["prediction"] == max(range(3), key=one["probabilities"].__getitem__)
        assert sum(one["probabilities"]) == pytest.approx(1)


def test_a_new_head_is_decided_by_the_seed_and_leaves_other_draws_alone() -> None:
    class Backbone(nn.Module):
        config = type("", (), {"hidden_size": 8})

    def head(seed: int) -> Tensor:
        return torch.cat(
            [p.flatten() for p in Classifier(Backbone(), "mean", [], HeadShape(2, 3), seed).parameters()]
        )

    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))
    assert torch.equal(torch.get_rng_state(), before)


# models that are refused


def test_a_folder_with_pickled_weights_only_is_refused_and_never_unpickled(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    import pickle
    import shutil

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "went off",))

    folder = tmp_path / "model"
    shutil.copytree(folder_of("bert"), folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Bomb()}))
    with pytest.raises(ValueError) as refused:
        task_of(folder).build()
    assert type(refused.value) is ValueError
    assert str(folder) in str(refused.value) and "safetensors" in str(refused.value)
    assert not (tmp_path / "went off").exists()


def test_the_code_of_a_model_repository_is_never_run(tmp_path: Path) -> None:
    auto = {"AutoConfig": "code.StrangeConfig", "AutoModel": "code.StrangeModel"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "strange", "auto_map": auto}))
    (tmp_path / "code.py").write_text(
        f"open({str(tmp_path / 'went off')!r}, 'w')\nclass StrangeConfig: pass\n"
    )
    with pytest.raises(ValueError, match="cannot be loaded") as refused:
        task_of(tmp_path)
    assert type(refused.value) is ValueError
    assert not (tmp_path / "went off").exists()


def test_a_model_that_lacks_weights_is_refused(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    import shutil

    import safetensors.torch

    shutil.copytree(folder_of("bert"), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    del weights["encoder.layer.1.output.dense.weight"]
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 of.*encoder\.layer\.1\.output\.dense\.weight"):
        task_of(tmp_path / "model").build()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "everything"])
def test_an_incomplete_folder_is_refused_by_name(
    missing: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(folder_of("bert"), folder)
    for file in folder.iterdir():
        if missing in (file.name, "everything"):
            file.unlink()
    with pytest.raises(ValueError, match=str(folder)) as refused:
        task_of(folder).build()
    assert type(refused.value) is ValueError


def test_weights_of_a_pretrained_head_are_left_aside(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    import transformers

    torch.manual_seed(2)
    whole = transformers.BertForMaskedLM(toy("bert"))
    whole.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    loaded = task_of(tmp_path).build().backbone.state_dict()
    for name, tensor in whole.bert.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


def test_random_weights_follow_the_seed_and_pretrained_ones_do_not(folder_of: Callable[[str], Path]) -> None:
    described = backbone.describe(ModelConfig(model=str(folder_of("bert"))), "encoder")

    def weights(init: Any, seed: int) -> str:
        return tensor_file.fingerprint(
            backbone.load(described, ModelConfig(init=init), "encoder", seed).state_dict()
        )

    assert weights("random", 0) == weights("random", 0) != weights("random", 1)
    assert weights("pretrained", 0) == weights("pretrained", 1) != weights("random", 0)


# attention on CPUs


def attention_case(length: int, masked: bool) -> tuple[list[Tensor], Tensor | None, Tensor]:
    """q, k, v (batch 3, heads 4, length, head size 16) in bf16, a mask of padding, a gradient."""
    draw = torch.Generator().manual_seed(length)
    q, k, v, gradient = (torch.randn(3, 4, length, 16, generator=draw).bfloat16() for _ in range(4))
    lengths = torch.tensor([length, max(1, length // 2), max(1, length - 1)])
    mask = (torch.arange(length)[None, :] < lengths[:, None])[:, None, None, :] if masked else None
    return [q, k, v], mask, gradient


def attend(
    function: Callable[..., Tensor],
    inputs: list[Tensor],
    mask: Tensor | None,
    gradient: Tensor,
    dtype: torch.dtype,
) -> list[Tensor]:
    """The output (batch, heads, length, head size) and the gradients of q, k and v, as float64."""
    leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs]
    out = function(*leaves, mask)
    out.backward(gradient.to(dtype))
    return [
        tensor.double() for tensor in (out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None))
    ]


def sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def blocked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    module = nn.Module()
    out, _ = cpu_attention.attention(module, query, key, value, mask, is_causal=False)
    return out.transpose(1, 2)


class Calls:
    """Counts the calls of the blocked kernel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, kernel = 0, cpu_attention._BlockedAttention.apply

        def counted(*arguments: Any) -> Any:
            self.count += 1
            return kernel(*arguments)

        monkeypatch.setattr(cpu_attention._BlockedAttention, "apply", counted)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [1, 7, 64, 300])
def test_blocked_attention_is_as_exact_as_sdpa_in_bf16(length: int, masked: bool, calls: Calls) -> None:
    # 12 sequences and heads of 300 * 300 scores are more than one block of 2**20 (11 fit)
    inputs, mask, gradient = attention_case(length, masked)
    truth = attend(sdpa, inputs, mask, gradient, torch.float32)
    ours = attend(blocked, inputs, mask, gradient, torch.bfloat16)
    theirs = attend(sdpa, inputs, mask, gradient, torch.bfloat16)
    assert calls.count == 1
    for name, exact, mine, other in zip(("out", "q", "k", "v"), truth, ours, theirs, strict=True):
        error, allowed = (mine - exact).norm(), 1.5 * (other - exact).norm()
        assert error <= allowed + 1e-6 * exact.norm(), f"{name}: {error / exact.norm():.2e}"


def test_masked_places_get_no_attention_and_no_gradient() -> None:
    (q, k, v), mask, gradient = attention_case(64, True)
    assert mask is not None
    hidden = ~mask.expand(3, 4, 1, 64).transpose(2, 3).expand_as(v)
    before = attend(blocked, [q, k, v], mask, gradient, torch.bfloat16)
    changed = [q, k.masked_fill(hidden, 9), v.masked_fill(hidden, -9)]
    after = attend(blocked, changed, mask, gradient, torch.bfloat16)
    assert torch.equal(before[0], after[0])
    assert not after[2][hidden].any() and not after[3][hidden].any()


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize(
    ("change", "used"),
    [
        ({}, True),
        ({"dropout": 0.1}, False),
        ({"is_causal": True}, False),
        ({"softcap": None}, True),
        ({"scaling": 0.5}, True),
    ],
)
def test_what_the_kernel_does_not_cover_goes_to_sdpa(
    change: dict[str, Any], used: bool, learns: bool, calls: Calls
) -> None:
    (q, k, v), _, _ = attention_case(7, False)
    q.requires_grad_(learns)
    out, _ = cpu_attention.attention(nn.Module(), q, k, v, None, **({"is_causal": False} | change))
    assert calls.count == (used and learns)
    assert out.shape == (3, 7, 4, 16)
    if "scaling" in change:
        expected = F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2)
        assert torch.allclose(out.float(), expected.float(), atol=0.02)


def test_an_argument_that_nobody_covers_is_refused_by_torch_and_not_ignored(calls: Calls) -> None:
    (q, k, v), _, _ = attention_case(7, False)
    with pytest.raises(ValueError, match="softcap"):
        cpu_attention.attention(nn.Module(), q, k, v, None, is_causal=False, softcap=5.0)
    assert calls.count == 0


@pytest.mark.parametrize(("length", "used"), [(639, True), (640, True), (641, False)])
def test_long_sequences_go_to_sdpa(length: int, used: bool, calls: Calls) -> None:
    q, k, v = (torch.randn(1, 1, length, 8).bfloat16().requires_grad_() for _ in range(3))
    cpu_attention.attention(nn.Module(), q, k, v, None, is_causal=False)
    assert calls.count == used


@pytest.mark.parametrize("family", IN_BF16)
def test_families_use_the_kernel_in_bf16_unless_they_have_an_attention_of_their_own(
    family: str, folder_of: Callable[[str], Path], calls: Calls
) -> None:
    task = task_of(folder_of(family), dropout=0.0)
    plain, fast = task.build().eval(), place(task.build(), torch.device("cpu")).eval()
    for together in (grouped([24, 24, 24, 24]), grouped([40, 7, 23, 24])):
        calls.count = 0
        with torch.inference_mode():
            truth = plain(together)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                fast(together)
        assert calls.count == 0
        with torch.autocast("cpu", dtype=torch.bfloat16):
            slow, quick = plain(together), fast(together)
        # three blocks, and plain never calls it
        assert calls.count == (0 if family in OWN_ATTENTION else 3)
        error, allowed = (quick - truth).norm(), (slow - truth).norm()
        assert error <= 2 * allowed, f"{error:.2e} {allowed:.2e}"


def test_a_model_that_cannot_compute_in_bf16_gets_float32(folder_of: Callable[[str], Path]) -> None:
    kind, cpu = (
        backbone.describe(ModelConfig(model=str(folder_of("deberta"))), "encoder").config.model_type,
        "cpu",
    )
    assert precision.resolve("auto", torch.device(cpu), kind) == "fp32"
    with pytest.raises(ValueError, match="deberta models cannot compute in it; use --precision fp32"):
        precision.resolve("bf16", torch.device(cpu), kind)
    model = task_of(folder_of("deberta")).build().eval()
    with pytest.raises(RuntimeError), torch.autocast("cpu", dtype=torch.bfloat16):
        model(grouped([9, 9]))  # when this no longer fails, the refusal can go


def test_float32_keeps_the_kernel_of_torch(folder_of: Callable[[str], Path], calls: Calls) -> None:
    model = place(task_of(folder_of("bert")).build(), torch.device("cpu")).eval()
    model(grouped([9, 9]))
    assert calls.count == 0


# dropout on CPUs


def dropped(p: float, given: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return cpu_dropout.Dropout(p).train()(given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_rate_and_the_scale_of_dropout(p: float, dtype: torch.dtype) -> None:
    size = 1_000_000
    found = dropped(p, torch.ones(size, dtype=dtype))
    # Binomial: standard deviation sqrt(p (1 - p) / n), at most 0.0005; five of them, and the rounding of p to
    # 2**-16
    share = (found == 0).float().mean().item()
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / size) + 2**-17
    kept = found[found != 0]
    level = round(p * 65536)
    assert kept.unique().tolist() == [torch.tensor(65536 / (65536 - level), dtype=dtype).item()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_backward_mask_of_dropout_is_the_forward_mask(dtype: torch.dtype) -> None:
    given = torch.randn(37, 11, dtype=dtype).requires_grad_()
    out = dropped(0.3, given)
    out.sum().backward()
    assert given.grad is not None
    scale = 65536 / (65536 - round(0.3 * 65536))
    kept = (out != 0).to(dtype)
    assert torch.equal(out, given.detach() * kept * scale)
    assert torch.equal(given.grad, kept * scale)


@pytest.mark.parametrize("size", range(1, 10))
def test_dropout_takes_any_number_of_elements(size: int) -> None:
    # random bits come in words of four
    found = torch.stack([dropped(0.5, torch.ones(size), seed) for seed in range(100)])
    assert found.shape == (100, size)
    # 100 draws of a half: 50 with a standard deviation of 5
    assert all(abs(column - 50) < 5 * 5 for column in (found != 0).sum(0).tolist())


def test_dropout_takes_a_tensor_that_is_not_laid_out_in_order() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        given = torch.randn(6, 5, 4, dtype=dtype)
        straight, turned = (
            dropped(0.4, given.transpose(0, 2).contiguous()),
            dropped(0.4, given.transpose(0, 2)),
        )
        assert torch.equal(straight, turned)


def test_dropout_is_repeated_by_the_seed_and_moves_on_without_it() -> None:
    given = torch.ones(1000)
    assert torch.equal(dropped(0.5, given, 3), dropped(0.5, given, 3))
    assert not torch.equal(dropped(0.5, given, 3), dropped(0.5, given, 4))
    layer = cpu_dropout.Dropout(0.5).train()
    assert not torch.equal(layer(given), layer(given))


def test_dropout_draws_the_same_again_under_checkpointing() -> None:
    layers = nn.Sequential(nn.Linear(16, 64), cpu_dropout.Dropout(0.5), nn.Linear(64, 16)).train()
    given = torch.randn(9, 16)
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        layers.zero_grad()
        out = checkpoint(layers, given, use_reentrant=False) if again else layers(given)
        assert isinstance(out, Tensor)
        out.pow(2).sum().backward()
        gradients.append([p.grad.clone() for p in layers.parameters() if p.grad is not None])
    assert len(gradients[0]) == 4
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_dropout_is_off_in_evaluation_and_exact_at_its_ends(p: float) -> None:
    given = torch.randn(100)
    assert torch.equal(cpu_dropout.Dropout(p).eval()(given), given)
    if p in (0.0, 1.0):
        assert torch.equal(dropped(p, given), given * (1 - p))


def test_dropout_replaces_every_plain_dropout_and_keeps_its_rate(folder_of: Callable[[str], Path]) -> None:
    model = task_of(folder_of("bert"), dropout=0.25).build()
    before = [name for name, module in model.named_modules() if type(module) is nn.Dropout]
    place(model, torch.device("cpu"))
    after = {name: module.p for name, module in model.named_modules() if type(module) is cpu_dropout.Dropout}
    assert before and list(after) == before
    assert set(after.values()) == {0.25, 0.0}  # 0.0: on attention weights
    assert not any(type(module) is nn.Dropout for module in model.modules())


def test_a_model_that_is_placed_in_evaluation_stays_in_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).eval()
    cpu_dropout.enable(model)
    assert not model[1].training and cpu_dropout.Dropout is type(model[1])
