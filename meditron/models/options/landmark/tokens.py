"""The landmark in a tokenizer that did not have it."""

import json
from pathlib import Path
from typing import Any

from meditron.errors import InputError
from meditron.files import atomic_write_json, atomic_write_text
from meditron.tokenizers import TOKENIZER_JSON


def add_landmark(folder: Path, token: str, token_id: int) -> None:
    """Add `token` with the id `token_id` to the tokenizer in `folder`, unless it has it.

    Where the embedding has more rows than the tokenizer has ids, reserved tokens fill the gap, because
    tokenizers number added tokens without holes.

    Raises:
        InputError: the tokenizer cannot be read, or has the token or the id already.
    """
    from tokenizers import Tokenizer

    if not (folder / TOKENIZER_JSON).is_file():
        _write_json_form(folder)
    path = folder / TOKENIZER_JSON
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises nothing narrower
        raise InputError(f"{path}: not a tokenizer.json ({error}); tokenize again") from error
    known = tokenizer.get_vocab(with_added_tokens=True)
    first = max(known.values(), default=-1) + 1
    if known.get(token) != token_id:
        if first > token_id or token in known:
            raise InputError(
                f"{path}: has {first} ids and cannot take {token} as id {token_id}; use the tokenizer that "
                "the base model came with"
            )
        tokenizer.add_special_tokens([*(f"<reserved_{n}>" for n in range(first, token_id)), token])
        assert tokenizer.token_to_id(token) == token_id
        atomic_write_text(path, tokenizer.to_str(pretty=True))
    _name_class(folder / "tokenizer_config.json")


def _write_json_form(folder: Path) -> None:
    """`tokenizer.json` of a SentencePiece model, as transformers converts it."""
    from transformers import AutoTokenizer, LlamaConfig

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            str(folder), config=LlamaConfig(), local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        sentence = " ".join(str(error).split())
        raise InputError(f"{folder}: its tokenizer cannot be read ({sentence}); tokenize again") from error
    tokenizer.save_pretrained(str(folder))


def _name_class(path: Path) -> None:
    """State the tokenizer's class, for which transformers else asks the model's own code."""
    config = json.loads(path.read_text()) if path.is_file() else {}
    if "tokenizer_class" not in config:
        atomic_write_json(path, {**config, "tokenizer_class": "PreTrainedTokenizerFast"})
