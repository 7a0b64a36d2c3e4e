"""Texts -> unit vectors, by a sentence-transformers model: it says what is computed, we say in which batches.

Sequences are sorted by length and cut into micro-batches by a token budget, so that hardly any padding is
computed. Attention is torch's own: forward alone its CPU kernel takes half the time of
lib.models.cpu_attention (4,096 tokens of MiniLM at lengths 32 to 256, one core: 7 to 20 ms against 14 to 44).
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lib.base import heap, hub, tensor_file
from lib.data import text
from lib.data.collate import TokenGroup, group
from lib.models import backbone, padding
from lib.process import precision

# Computed tokens of one forward pass. Measured with MiniLM: 4,096 took 0.8 times the processor time of 8,192
# (more fits into the caches) and 2,048 as much or more (calls).
TOKEN_BUDGET = 4096
UNLIMITED = 512  # tokens of a text for a model that names no limit
PROMPTS = {"query": ("query",), "passage": ("document", "passage", "corpus")}  # as models name them


@dataclass(frozen=True)
class Embedded:
    """vectors: (texts, dimension) float32 of length 1; num_cut: texts longer than the model reads."""

    vectors: np.ndarray
    num_cut: int


class Embedder:
    """A sentence-transformers model on the fastest device there is."""

    def __init__(self, name: str, wanted: str = "auto", revision: str | None = None) -> None:
        self.name = name
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.revision, self._new = _load(name, revision, self.device)
        self._check()
        self.tokenizer = text.prepare_tokenizer(self.model.tokenizer)
        transformer = self.model[0].auto_model
        self.max_length = self._longest(transformer.config)
        # families that count positions from their padding id must be padded with it
        counted = transformer.config.model_type in backbone.COUNT_FROM_PAD
        self.pad = transformer.config.pad_token_id if counted else text.specials_of(self.tokenizer).pad
        self._try(transformer.config)
        self.precision = precision.resolve(wanted, self.device, transformer.config.model_type)
        self._fingerprint = self._weigh()
        if self.precision == "bf16":  # autocast's copies cost 8 %; buffers (angles, say) stay float32
            for parameter in transformer.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)

    def _check(self) -> None:
        """Raises ValueError for a model that would not be read as it was trained."""
        if not hasattr(self.model[0], "auto_model"):
            raise ValueError(f"the embedding model {self.name} is no transformer; use another --model")
        if getattr(self.model[0].auto_model, "_hf_peft_config_loaded", False):
            raise ValueError(
                f"the embedding model {self.name} has an adapter beside its weights, and libraries put it on "
                "top of them; take adapter_* out of its folder"
            )
        if not getattr(self.model.tokenizer, "is_fast", False):
            raise ValueError(f"the embedding model {self.name} has no tokenizer.json; use another --model")
        left_out = any(getattr(module, "include_prompt", True) is False for module in self.model)
        if left_out and any(self._prompts().values()):
            raise ValueError(
                f"the embedding model {self.name} leaves its prompt out of the mean; use another"
            )

    def _longest(self, config: Any) -> int:
        """How many tokens a text may have: what the model was told to read, as far as its positions reach."""
        told = self.model.max_seq_length or min(self.model.tokenizer.model_max_length, UNLIMITED)
        limit = backbone.max_positions(config)
        return int(told if limit is None else min(told, limit))

    def _try(self, config: Any) -> None:
        """Raises ValueError for a model that cannot read its longest text, or mixes padding into the words:
        now, not hours later."""
        special = {*self.tokenizer.all_special_ids, self.pad}
        word = next(word for word in range(len(self.tokenizer)) if word not in special)
        ids = np.full(self.max_length, word, np.int32)
        padding.check(
            lambda part: self._forward(part.to(self.device)),
            ids,
            self.pad,
            f"the embedding model {self.name}",
        )

    @property
    def dimension(self) -> int:
        return int(self.model.get_embedding_dimension())

    def fingerprint(self) -> str:
        """sha256 of everything that decides a vector: weights, tokenizer, pooling, length, prompts."""
        return self._fingerprint

    def _weigh(self) -> str:
        state = self.model.state_dict()
        known = [name for name in state if not name.endswith(tuple(f".{new}" for new in self._new))]
        parts = [tensor_file.fingerprint(state, known), text.fingerprint(self.tokenizer)]
        parts += [
            *map(repr, list(self.model)[1:]),
            str(self.max_length),
            repr(sorted(self._prompts().items())),
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _prompts(self) -> dict[str, str]:
        """What the model wants to stand before a query and before a passage; nothing, mostly."""
        known, usual = self.model.prompts or {}, self.model.default_prompt_name
        return {
            kind: next((known[name] for name in (*names, usual) if known.get(name)), "")
            for kind, names in PROMPTS.items()
        }

    def embed(
        self,
        texts: list[str],
        kind: Literal["query", "passage"],
        between: Callable[[], None] = lambda: None,
    ) -> Embedded:
        """`between` runs between micro-batches and may raise to stop."""
        sequences, num_cut = self._tokenize(texts, self._prompts()[kind])
        order = np.argsort([-len(ids) for ids in sequences], kind="stable")
        vectors = np.empty((len(texts), self.dimension), np.float32)
        with torch.inference_mode():
            for chosen in micro_batches(order, [len(ids) for ids in sequences]):
                between()
                heap.trim()  # tensors of every length leave holes: 350 MiB after 3,000 passages
                grouped = group([sequences[place] for place in chosen], self.pad)
                pooled = torch.cat([self._forward(part.to(self.device)) for part in grouped.groups])
                vectors[chosen] = pooled[grouped.order.to(pooled.device)].cpu().numpy()
        return Embedded(vectors, num_cut)

    def _tokenize(self, texts: list[str], prompt: str) -> tuple[list[np.ndarray], int]:
        """Ids of each text with the special tokens, cut at the length the model reads."""
        backend = self.tokenizer.backend_tokenizer
        backend.enable_truncation(self.max_length)
        try:
            safe = [(prompt + text_).encode("utf-8", "replace").decode("utf-8") for text_ in texts]
            encodings = backend.encode_batch_fast(safe)
        finally:
            backend.no_truncation()
        num_cut = sum(bool(encoding.overflowing) for encoding in encodings)
        return [np.asarray(encoding.ids, np.int32) for encoding in encodings], num_cut

    def _forward(self, part: TokenGroup) -> torch.Tensor:
        """(sequences, dimension) float32; pooling and what follows it are computed in float32."""
        features: dict[str, Any] = {"input_ids": part.ids}
        if part.mask is not None:
            features["attention_mask"] = part.mask
        features = self.model[0](features)
        features["token_embeddings"] = features["token_embeddings"].float()
        features.setdefault("attention_mask", torch.ones_like(part.ids))
        for module in list(self.model)[1:]:
            features = module(features)
        # models without a normalizing module: similarity is the cosine for them too
        return torch.nn.functional.normalize(features["sentence_embedding"].float(), dim=1)


def micro_batches(order: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    """Pieces of `order` (longest first) of at most TOKEN_BUDGET computed tokens, or of one sequence."""
    pieces, begin = [], 0
    while begin < len(order):
        size = max(1, TOKEN_BUDGET // max(1, lengths[order[begin]]))
        pieces.append(order[begin : begin + size])
        begin += size
    return pieces


def _load(name: str, revision: str | None, device: torch.device) -> tuple[Any, str | None, list[str]]:
    """The model in float32, the commit of one from the hub, and which weights are new. Raises ValueError when
    it cannot be had."""
    source = str(backbone.minilm_folder()) if name == "minilm" else name
    words: dict[str, Any] = {"revision": revision}
    if not Path(source).exists() and revision is None:
        words = hub.where_of(source, "main")
    with _quiet():
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        try:
            model = SentenceTransformer(
                source,
                device=str(device),
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
                **words,
            )
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            raise ValueError(
                f"the embedding model {name} cannot be loaded: {hub.first_line(error)} (it "
                "takes minilm, or the hub id or folder of a sentence-transformers model with safetensors)"
            ) from error
        new = _missing(name, model, words)
    return model.eval(), words["revision"], new


def _missing(name: str, model: Any, words: dict[str, Any]) -> list[str]:
    """Names of the weights that are drawn anew at each load: of a pooler, which decides no vector. Raises
    ValueError for others; sentence-transformers says nothing of them."""
    import transformers

    transformer = getattr(model[0], "auto_model", None)
    if transformer is None:
        return []
    where = {key: value for key, value in words.items() if key in ("revision", "local_files_only")}
    _, info = transformers.AutoModel.from_pretrained(
        transformer.name_or_path,
        config=transformer.config,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **where,
    )
    bad = [
        *(key for key in info["missing_keys"] if "pooler" not in key),
        *(k[0] for k in info["mismatched_keys"]),
    ]
    if bad:
        raise ValueError(
            f"the embedding model {name} lacks {len(bad)} of its weights ({', '.join(sorted(bad)[:3])} ...); "
            "they would be random. Use a complete model"
        )
    return list(info["missing_keys"])


@contextlib.contextmanager
def _quiet() -> Any:
    """Hold back what libraries say of themselves while they are imported."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
