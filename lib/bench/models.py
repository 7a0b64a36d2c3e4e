"""Models to measure with, made on the spot: random weights in a real shape."""

from pathlib import Path
from typing import Any

SMALL_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 704,
    "max_position_embeddings": 2048,
}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "intermediate_size": 1376,
    "vocab_size": 32_000,
    "max_position_embeddings": 2048,
}
PYTHIA: dict[str, Any] = {  # pythia-70m
    "model_type": "gpt_neox",
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "vocab_size": 50_304,
    "max_position_embeddings": 2048,
}


BERT_LARGE: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "vocab_size": 30_522,
    "max_position_embeddings": 512,
}
LLAMA_1B: dict[str, Any] = {  # Llama 3.2
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": True,
}
LLAMA_8B: dict[str, Any] = LLAMA_1B | {  # Llama 3.1
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "intermediate_size": 14_336,
    "tie_word_embeddings": False,
}


def without_weights(shape: dict[str, Any], tokenizer: str | None, folder: Path) -> Any:
    """A folder with the configuration of that shape, for the words of that tokenizer; None: of the toy's,
    whose ids are bytes. Returns the configuration."""
    import transformers

    from lib.models import tiny

    words: Any = transformers.AutoTokenizer.from_pretrained(tokenizer) if tokenizer else tiny.tokenizer()
    config = transformers.AutoConfig.for_model(**{"vocab_size": len(words)} | shape)
    config.save_pretrained(folder)
    words.save_pretrained(folder)
    return config


def decoder(shape: dict[str, Any], tokenizer: str | None, folder: Path) -> str:
    """A folder with a random decoder of that shape, for the words of that tokenizer; None: of the toy's."""
    import transformers

    config = without_weights(shape, tokenizer, folder)
    transformers.set_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def small_llama(tokenizer: str, folder: Path) -> str:
    """A folder with a random Llama of hidden 256 and 6 layers, for the words of that tokenizer."""
    return decoder(SMALL_LLAMA, tokenizer, folder)
