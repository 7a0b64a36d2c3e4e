"""LoRA and quantized backbones: real bitsandbytes weights on a CPU, one and two ranks, stopped, resumed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from lib import recipe as recipes
from lib.base.exits import CheckError
from lib.command_line import parse
from lib.config import AdapterConfig, Config
from lib.data import rows as encoded_rows
from lib.models import adapters, heads, tiny
from lib.runs.resume import check_fingerprints
from lib.tasks import make as make_task
from lib.tasks.classify import Classify
from lib.training import optim
from lib.training.unused import freeze_unused
from tests.tools import losses, metrics, only_run, run, status, wide_model

SHORT = ["--data", "sample", "--sample-rows", "90", "--max-rows", "12", "--max-length", "48", "--batch", "5"]
SHORT += ["--max-cut", "1"]  # tokens are bytes
SHORT += ["--max-steps", "4", "--eval-every", "2", "--precision", "fp32", "--threads", "1"]


def make_llama(folder: Path, hidden: int = 64) -> str:
    """A decoder with random weights, as a folder that from_pretrained can quantize."""
    import transformers

    tokenizer = tiny.tokenizer()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * hidden,
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        pad_token_id=0,
    )
    transformers.LlamaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_llama(tmp_path_factory.mktemp("llama"))


def configuration(*flags: str) -> Config:
    return parse(recipes.load("boolq").config, [*SHORT, *flags], "test")


def task_of(*flags: str) -> Classify:
    made = make_task(recipes.load("boolq"), configuration(*flags))
    assert isinstance(made, Classify)
    return made


@pytest.mark.faults  # five real runs, two minutes on two slow cores
def test_qlora_on_two_ranks_is_one_rank_and_goes_on_after_a_stop(llama: str, tmp_path: Path) -> None:
    """NF4 base, LoRA, gradient checkpointing under DDP: no parameter is marked ready twice."""
    flags = ["boolq", *SHORT, "--model", llama, "--quantize", "nf4", "--lora-rank", "4"]
    flags += ["--gradient-checkpointing"]

    def train(name: str, *more: str) -> Path:
        done = run(*flags, "--runs-dir", str(tmp_path / name), *more)
        assert done.returncode == (75 if "--stop-at" in more else 0), done.stderr
        return only_run(tmp_path / name)

    one = train("one")
    two = train("two", "--devices", "2")
    # The gradient is the same to 1e-6. AdamW then divides it by its size, and LoRA's first matrix begins with
    # gradients of nearly 0 (the second one is 0), whose rounding it blows up.
    assert losses(two)[0] == pytest.approx(losses(one)[0], rel=1e-6)
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)
    train("parts", "--devices", "2", "--stop-at", "2")
    parts = train("parts", "--devices", "2")
    assert losses(parts) == losses(two)
    best = two / "checkpoints" / "step-000004"
    for name in ("adapter/adapter_model.safetensors", "head.safetensors", "optimizer.safetensors"):
        assert (best / name).read_bytes() == (parts / "checkpoints" / "step-000004" / name).read_bytes()
    assert not (best / "backbone").exists(), "only what trains is saved"
    again = run(str(two), "--split", "validation", script="evaluate.py")
    assert "the same to the last digit" in again.stdout, again.stdout + again.stderr
    assert metrics(two, "validation") and status(two)["exit_code"] == 0
    size = json.loads((two / "run.json").read_text())["parameters"]
    assert size["trainable"] < size["total"] / 3


def test_a_saved_adapter_opens_with_plain_peft(llama: str, tmp_path: Path) -> None:
    import peft
    import transformers

    task = task_of("--model", llama, "--lora-rank", "4", "--quantize", "none")
    model = task.build(None).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:  # new ones are 0 and would change nothing
                value.normal_(0, 0.5)
    task.save(model, {name: value.clone() for name, value in task.state(model).items()}, tmp_path)
    base = transformers.AutoModel.from_pretrained(llama)
    plain = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    ids = torch.tensor([[1, 5, 9, 200, 2]])
    with torch.no_grad():
        expected = model.backbone(input_ids=ids).last_hidden_state
        assert torch.equal(plain(input_ids=ids).last_hidden_state, expected)
        bare = transformers.AutoModel.from_pretrained(llama)(input_ids=ids).last_hidden_state
        assert (bare - expected).abs().max() > 1e-2  # the adapter does something
    rebuilt = task.build(tmp_path).eval()
    for name, value in task.state(model).items():
        assert torch.equal(task.state(rebuilt)[name], value), name


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_what_no_gradient_reaches_is_saved_with_the_adapter_all_the_same(family: str, tmp_path: Path) -> None:
    """A pooler that nobody reads is frozen, but its biases are among those that peft wants back."""
    import transformers

    base, tokenizer = str(tmp_path / "base"), tiny.tokenizer()
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 128, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(family, vocab_size=len(tokenizer), **sizes)
    transformers.AutoModel.from_config(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    flags = ["--model", base, "--lora-rank", "4", "--lora-bias", "all", "--quantize", "none"]
    made = make_task(recipes.load("boolq"), parse(recipes.load("boolq").config, [*SHORT, *flags], "test"))
    model = made.build(None)
    assert not [name for name, _ in model.named_parameters() if "pooler" in name and "lora" in name]
    freeze_unused(model, [p for name, p in model.named_parameters() if "pooler" not in name])
    (tmp_path / "at").mkdir()
    made.save(model, dict(made.state(model)), tmp_path / "at")
    rebuilt = made.build(tmp_path / "at")
    for name, value in made.state(model).items():
        assert torch.equal(made.state(rebuilt)[name], value), name


def test_an_adapter_for_another_base_is_refused(llama: str, tmp_path: Path) -> None:
    wide = make_llama(tmp_path / "wide", hidden=128)
    task = task_of("--model", llama, "--lora-rank", "4", "--quantize", "none")
    model = task.build(None)
    (tmp_path / "at").mkdir()
    task.save(model, dict(task.state(model)), tmp_path / "at")
    other = task_of("--model", wide, "--lora-rank", "4", "--quantize", "none").build(None)
    with pytest.raises(ValueError, match="is for another base or other flags"):
        adapters.load(other.backbone, tmp_path / "at" / "adapter")


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--lora-targets", "q_proj", "nix"], "--lora-targets nix: nowhere in this model; it has down_proj"),
        (["--lora-save", "nothing"], "--lora-save nothing: nowhere in this model"),
        (["--lora-targets", "q_proj", "--lora-save", "q_proj"], "q_proj is in --lora-targets and"),
        (["--lora-layers", "0", "2"], "--lora-layers 2: the blocks of this model are 0 to 1"),
        (["--lora-rank-pattern", "nothing", "8"], "--lora-rank-pattern nothing: matches nothing"),
        (["--lora-alpha-pattern", "q_proj(", "8"], "--lora-alpha-pattern .* is no regular expression"),
    ],
)
def test_each_name_of_an_adapter_is_looked_for(llama: str, flags: list[str], said: str) -> None:
    task = task_of("--model", llama, "--lora-rank", "4", "--quantize", "none", *flags)
    with pytest.raises(ValueError, match=said):
        task.checkpoint_bytes()


@pytest.mark.parametrize("flag", ["--lora-targets", "--lora-save"])
@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_of_one_of_two_tied_layers_is_refused(tied: bool, flag: str) -> None:
    import transformers

    config = AdapterConfig(lora_rank=4, **{flag[2:].replace("-", "_"): ("lm_head",)})  # type: ignore[arg-type]
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    of = transformers.LlamaConfig(vocab_size=16, tie_word_embeddings=tied, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(of)
    if tied:
        with pytest.raises(ValueError, match=r"lm_head and model\.embed_tokens of this model are one weight"):
            adapters.add(model, config, seed=0)
    else:
        adapters.add(model, config, seed=0)


@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "v_proj"]])
def test_blocks_are_found_without_being_told_their_lists_name(llama: str, targets: list[str]) -> None:
    flags = ["--lora-layers", "1", "--lora-targets", *targets]
    model = task_of("--model", llama, "--lora-rank", "4", "--quantize", "none", *flags).build(None)
    layers = {name.partition(".lora_")[0] for name, _ in model.named_parameters() if "lora_" in name}
    assert all(".layers.1." in name for name in layers)
    assert len(layers) == (7 if targets == ["all-linear"] else 2)  # q k v o, gate up down


def test_a_target_that_is_nowhere_lists_what_there_is(llama: str) -> None:
    task = task_of("--model", llama, "--lora-rank", "4", "--quantize", "none", "--lora-targets", "q_prooj")
    with pytest.raises(
        ValueError, match="--lora-targets q_prooj.*down_proj, gate_proj, k_proj, o_proj, q_proj"
    ):
        task.checkpoint_bytes()  # before any weight is loaded


@pytest.mark.parametrize(("quantize", "bits"), [("nf4", 4), ("fp4", 4), ("int8", 8)])
def test_quantized_weights_take_their_bits_and_are_counted_as_weights(
    quantize: str, bits: int, llama: str
) -> None:
    whole = adapters.count(task_of("--model", llama, "--quantize", "none", "--lora-rank", "4").build(None))
    small = adapters.count(task_of("--model", llama, "--quantize", quantize, "--lora-rank", "4").build(None))
    assert (small["total"], small["trainable"]) == (whole["total"], whole["trainable"])
    # 2 blocks: q, o of 64 x 64; k, v of 32 x 64; gate, up, down of 64 x 128: 36,864 weights each
    assert whole["bytes"] - small["bytes"] == 2 * 36_864 * (32 - bits) // 8


def test_flags_reach_peft(llama: str) -> None:
    flags = ["--lora-rank", "8", "--lora-alpha", "24", "--lora-dropout", "0.25", "--lora-bias", "lora_only"]
    flags += [
        "--lora-targets",
        "q_proj",
        "v_proj",
        "--lora-rslora",
        "--lora-save",
        "norm",
        "--lora-layers",
        "1",
    ]
    flags += ["--lora-layers-pattern", "layers", "--lora-rank-pattern", "q_proj", "2"]
    flags += ["--lora-alpha-pattern", "v_proj", "5", "--model", llama]
    made = adapters.lora_config(configuration(*flags).adapter, torch.nn.Module())
    assert (made.r, made.lora_alpha, made.lora_dropout, made.bias) == (8, 24, 0.25, "lora_only")
    assert (made.use_rslora, made.layers_to_transform, made.layers_pattern) == (True, [1], "layers")
    assert (made.rank_pattern, made.alpha_pattern) == ({"q_proj": 2}, {"v_proj": 5})
    model = task_of(*flags, "--quantize", "none").build(None)
    trains = {name for name, value in model.named_parameters() if value.requires_grad}
    assert any("layers.1" in name and "q_proj.lora_A" in name for name in trains)
    assert not any("layers.0" in name and "lora" in name for name in trains)
    assert any("norm.modules_to_save" in name for name in trains)
    assert (
        model.state_dict()["backbone.base_model.model.layers.1.self_attn.q_proj.lora_A.default.weight"].shape[
            0
        ]
        == 2
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--quantize", "nf4", "--lora-rank", "0"], "cannot train; use --lora-rank 16 or --freeze all"),
        (["--quantize", "nf4", "--init", "random"], "needs trained weights"),
        (["--model", "tiny"], "needs trained weights"),
        (["--freeze", "bottom"], "use --freeze none, and --lora-layers"),
        (["--lora-rank", "-1"], "--lora-rank is -1"),
        (["--lora-dropout", "1"], "--lora-dropout is 1.0"),
    ],
)
def test_what_cannot_go_together_is_refused(flags: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        configuration("--model", "somewhere", *flags)


def test_two_classes_are_one_output_under_binary_cross_entropy(llama: str) -> None:
    recipe = recipes.load("boolq")
    task = task_of("--model", llama, "--quantize", "none", "--lora-rank", "4")
    examples = [recipe.to_example(row | {"id": number}) for number, row in enumerate(recipe.sample(6, 0))]
    rows = encoded_rows.pack(task.encode(examples))
    batch = task.collate(rows, tuple(range(6)))
    model = task.build(None).eval()
    assert model.head[-1].out_features == 1
    logits = model.head(model.vectors(batch.inputs).flatten(1)).squeeze(1)
    expected = F.binary_cross_entropy_with_logits(logits, batch.labels.float(), reduction="sum")
    assert torch.allclose(task.loss(model(batch.inputs), batch), expected)


def test_moments_of_8_bits_go_on_bit_for_bit_after_a_stop(tmp_path: Path) -> None:
    flags = ["arena", *SHORT, "--model", "tiny", "--init", "random", "--optimizer", "adamw8bit"]
    for name, stop in (("whole", []), ("parts", ["--stop-at", "2"]), ("parts", [])):
        done = run(*flags, *stop, "--runs-dir", str(tmp_path / name))
        assert done.returncode == (75 if stop else 0), done.stderr
    whole, parts = (only_run(tmp_path / name) for name in ("whole", "parts"))
    assert losses(whole) == losses(parts)
    file = "checkpoints/step-000004/optimizer.safetensors"
    assert (whole / file).read_bytes() == (parts / file).read_bytes()
    assert torch.uint8 in {tensor.dtype for tensor in load_file(whole / file).values()}


def test_a_paged_optimizer_is_refused_without_a_gpu() -> None:
    config = configuration("--model", "somewhere", "--optimizer", "paged_adamw8bit").optim
    with pytest.raises(ValueError, match="needs a CUDA GPU; use adamw8bit or adamw"):
        optim.check(config, torch.device("cpu"))
    optim.check(config, torch.device("cuda"))


def test_a_base_that_changed_is_refused_on_resume(llama: str, tmp_path: Path) -> None:
    """No checkpoint keeps it, so only its fingerprint can tell."""
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    flags = ["boolq", *SHORT, "--model", str(folder), "--quantize", "none", "--lora-rank", "4"]
    flags += ["--runs-dir", str(tmp_path / "runs")]
    assert run(*flags, "--stop-at", "1").returncode == 75
    weights = load_file(folder / "model.safetensors")
    weights["norm.weight"] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    again = run(*flags)
    assert again.returncode == 3 and "fingerprint of base changed" in again.stderr


def test_fingerprints_that_agree_pass() -> None:
    check_fingerprints({"base": "a"}, {"base": "a"})
    with pytest.raises(CheckError):
        check_fingerprints({"base": "a"}, {"base": "b"})


def test_no_lora_means_no_adapter() -> None:
    assert adapters.quantization(AdapterConfig(), "bf16") is None
    assert not adapters.is_adapted(heads.nn.Linear(1, 1))


def test_evaluating_leaves_the_weights_as_they_are(llama: str) -> None:
    model = task_of("--model", llama, "--quantize", "nf4", "--lora-rank", "4").build(None)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ids = torch.tensor([[1, 5, 9, 200, 2]])
    for training in (True, False, True):
        model.train(training)
        with torch.no_grad():
            model.backbone(input_ids=ids)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_an_encoders_unused_pooler_gets_no_adapter_and_the_run_is_scored(tmp_path: Path) -> None:
    import transformers

    folder = tmp_path / "bert"
    config = transformers.AutoConfig.from_pretrained(wide_model(folder))
    transformers.BertModel(config).save_pretrained(folder)
    flags = ["arena", *SHORT, "--model", str(folder), "--lora-rank", "4", "--max-steps", "1"]
    done = run(*flags, "--runs-dir", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    names = load_file(
        only_run(tmp_path / "runs") / "checkpoints" / "best" / "adapter" / adapters.WEIGHTS
    ).keys()
    assert names and not [name for name in names if "pooler" in name]
