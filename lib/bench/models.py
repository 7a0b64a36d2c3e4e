"""Models to measure with, made on the spot."""

from pathlib import Path
from typing import Any


def small_llama(tokenizer: str, folder: Path) -> str:
    """A folder with a random Llama of hidden 256 and 6 layers, for the words of that tokenizer."""
    import transformers

    words: Any = transformers.AutoTokenizer.from_pretrained(tokenizer)
    sizes: Any = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8}
    sizes |= {"intermediate_size": 704, "vocab_size": len(words), "max_position_embeddings": 2048}
    transformers.set_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)
