"""What tasks that read with language models have in common: which families they may be, and what is refused
of all of them."""

from typing import Any

from lib.config import Config
from lib.models import backbone

# Decoders whose states are exact when sequences share a prefix, and whose output layer is a plain one: each
# is held against transformers' own logits of separate sequences in tests/test_choose.py.
DECODERS = ("llama", "mistral", "phi3", "gpt_neox", "gpt2", "qwen2", "qwen3", "gemma", "olmo2", "phi")
SEQ2SEQ = ("t5", "mt5")


def kind_of(config: Any) -> backbone.Kind:
    if config.is_encoder_decoder:
        return "seq2seq"
    return "causal" if backbone.is_causal(config) else "encoder"


def refuse(config: Config, described: backbone.Described, its: str, also: str = "") -> None:
    """Raises ValueError for a language model that the task cannot take; `its`: what is taken of it; `also`:
    what the task takes besides."""
    name, kind = described.name, described.config.model_type
    if config.model.pooling != "auto":
        raise ValueError(f"--pooling {config.model.pooling}: {name} scores tokens; leave it out")
    if kind not in DECODERS + SEQ2SEQ:
        raise ValueError(
            f"--model {name} is a {kind}; its {its} have not been checked. Use "
            f"{also}one of {', '.join(DECODERS + SEQ2SEQ)}"
        )
    if config.model.freeze == "all":
        raise ValueError(
            f"--freeze all leaves nothing of {name} to train, it has no new head; use --freeze bottom or "
            "--lora-rank 16"
        )
    window, length = getattr(described.config, "sliding_window", None), config.data.max_length
    if window is not None and length > window:
        raise ValueError(f"--max-length {length} is more than {name} looks back; use at most {window}")
