"""The landmark in a tokenizer and in the embeddings of a model that did not have it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meditron.errors import InputError
from meditron.models.safetensors_folder import WeightSource

_EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
_CHUNK_ROWS = 8192


class MeanRow:
    """Weights whose embeddings have one more row, the mean of the others.

    A new token then begins as an average one, as in the paper's code for Llama.

    Args:
        weights: of the model without the landmark.
        vocab_size: its rows.
    """

    def __init__(self, weights: WeightSource, vocab_size: int) -> None:
        self._weights, self._vocab_size = weights, vocab_size

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of a tensor (its first axis)."""
        if name not in _EMBEDDINGS or stop <= self._vocab_size:
            return self._weights.rows(name, start, stop)
        known = self._weights.rows(name, min(start, self._vocab_size), self._vocab_size)
        mean = self._mean(name).to(known.dtype)[None]
        return torch.cat([known, mean]) if start <= self._vocab_size else known

    def columns(self, name: str, start: int, stop: int) -> Tensor:
        """Columns `start` to `stop` of a matrix."""
        return self._weights.columns(name, start, stop)

    def _mean(self, name: str) -> Tensor:
        """In chunks and in fp64: every rank gets the same, and the whole embedding is never held."""
        total: Any = 0
        for start in range(0, self._vocab_size, _CHUNK_ROWS):
            stop = min(start + _CHUNK_ROWS, self._vocab_size)
            total = total + self._weights.rows(name, start, stop).double().sum(0)
        mean: Tensor = total / self._vocab_size
        return mean


def add_landmark(folder: Path, token: str, token_id: int) -> None:
    """Add `token` with the id `token_id` to the tokenizer in `folder`, unless it has it.

    Where the embedding has more rows than the tokenizer has ids, reserved tokens fill the gap, because
    tokenizers number added tokens without holes.

    Raises:
        InputError: the tokenizer cannot be read, or has the token or the id already.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        sentence = " ".join(str(error).split())
        raise InputError(f"{folder}: its tokenizer cannot be read ({sentence}); tokenize again") from error
    if tokenizer.get_vocab().get(token) == token_id:
        return
    if len(tokenizer) > token_id or token in tokenizer.get_vocab():
        raise InputError(
            f"{folder}: its tokenizer has {len(tokenizer)} ids and cannot take {token} as id {token_id}; "
            "use the tokenizer that the base model came with"
        )
    reserved = [f"<reserved_{number}>" for number in range(len(tokenizer), token_id)]
    tokenizer.add_tokens([*reserved, token], special_tokens=True)
    assert tokenizer.convert_tokens_to_ids(token) == token_id
    tokenizer.save_pretrained(str(folder))
