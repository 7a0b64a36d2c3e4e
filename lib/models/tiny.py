"""Toys made in memory: a two-layer model and a tokenizer whose ids are bytes. For smoke runs and tests."""

from typing import Any

SPECIALS = (
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[UNK]",
)  # ids 0 to 3; byte b of a text has the id 4 + (its place below)


def tokenizer() -> Any:
    """A tokenizer with one id a byte (byte-level BPE without merges)."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: place for place, word in enumerate([*SPECIALS, *alphabet])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[], unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=512,
    )


def config(family: str, vocab_size: int) -> Any:
    """The configuration of a toy encoder or decoder."""
    import transformers

    sizes: Any = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 512,
        "vocab_size": vocab_size,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family == "encoder":
        return transformers.BertConfig(**sizes)
    return transformers.LlamaConfig(**sizes, tie_word_embeddings=True)
