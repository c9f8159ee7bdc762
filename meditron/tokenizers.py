"""Tokenizers behind one small interface: SentencePiece models and Hugging Face `tokenizer.json`.

`transformers` is not needed to encode; the Rust and C++ libraries are called directly.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from meditron.errors import InputError
from meditron.files import atomic_write_json, atomic_write_text
from meditron.words import TokenIds, WordEncoder, cuts_at_spaces

if TYPE_CHECKING:
    import sentencepiece
    import tokenizers

TOKENIZER_JSON = "tokenizer.json"
SENTENCEPIECE_MODEL = "tokenizer.model"
TOKENIZER_FILES = (
    TOKENIZER_JSON,
    SENTENCEPIECE_MODEL,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""What makes up a tokenizer in a Hugging Face folder."""


class Tokenizer(Protocol):
    """What the pipeline asks of a tokenizer."""

    vocab_size: int
    """Number of ids, added tokens included: all ids are below it."""
    bos_id: int | None
    """Id of the beginning-of-sequence token, None where there is none."""
    eos_id: int | None
    """Id of the end-of-sequence token, None where there is none."""
    added: dict[str, int]
    """Tokens that it got beside its own, and their ids."""
    hash: str
    """SHA-256 of what decides the ids."""

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of each text (int32, shape [tokens]), without any special token around them.

        The spelling of a special token inside a text is encoded as ordinary text.
        """
        ...

    def save(self, folder: str | Path) -> None:
        """Copy the tokenizer's files, so that `load_tokenizer` and transformers read the folder."""
        ...


class HuggingFaceTokenizer:
    """A `tokenizer.json` with its special tokens, encoded by the Rust library.

    Args:
        folder: holds `tokenizer.json`, and `tokenizer_config.json` for the names of the special tokens.
        file: the `tokenizer.json` itself, where it has another name.
        added: tokens that it gets where it lacks them, with the next ids; texts may spell them.
    """

    def __init__(self, folder: Path, file: Path | None = None, added: Sequence[str] = ()) -> None:
        self._folder = folder
        self._file = file or folder / TOKENIZER_JSON
        self._tokenizer = _open_tokenizer_json(self._file)
        self.added = _add_tokens(self._tokenizer, added)
        self.vocab_size = _count_ids(self._tokenizer)
        names = _special_token_names(folder)
        self.bos_id = self._id_of(names, "bos_token", ("<s>", "<|begin_of_text|>"))
        self.eos_id = self._id_of(names, "eos_token", ("</s>", "<|end_of_text|>", "<|endoftext|>"))
        known = json.dumps(self.added).encode() if self.added else b""
        self.hash = _hash_of(self._file.read_bytes() + known, self.bos_id, self.eos_id)
        by_word = cuts_at_spaces(self._tokenizer.to_str())
        self._words = WordEncoder(self._encode_whole) if by_word else None

    def _id_of(self, names: dict[str, str], role: str, usual: Sequence[str]) -> int | None:
        for name in (names[role],) if role in names else usual:
            found: int | None = self._tokenizer.token_to_id(name)
            if found is not None:
                return found
        return None

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of each text; word by word where that gives the same ids."""
        return self._words.encode_batch(texts) if self._words else self._encode_whole(texts)

    def _encode_whole(self, texts: Sequence[str]) -> list[TokenIds]:
        # `encode_batch_fast` leaves out the offsets nobody asks for.
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def save(self, folder: str | Path) -> None:
        """Copy the tokenizer's files."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            if (self._folder / name).is_file():
                shutil.copyfile(self._folder / name, Path(folder) / name)
        if self.added:
            atomic_write_text(Path(folder) / TOKENIZER_JSON, self._tokenizer.to_str(pretty=True))
        else:
            shutil.copyfile(self._file, Path(folder) / TOKENIZER_JSON)


def _count_ids(tokenizer: "tokenizers.Tokenizer") -> int:
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    return max(tokenizer.get_vocab_size(with_added_tokens=True), highest + 1)  # ids may have holes


def _add_tokens(tokenizer: "tokenizers.Tokenizer", added: Sequence[str]) -> dict[str, int]:
    """Give it the tokens that it lacks; returns them with their ids."""
    import tokenizers

    lacking = [token for token in added if tokenizer.token_to_id(token) is None]
    # As ordinary ones: special ones that a text spells are encoded as text, see above.
    tokenizer.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in lacking])
    ids = tokenizer.get_vocab(with_added_tokens=True)
    return {token: ids[token] for token in lacking}


def _open_tokenizer_json(file: Path) -> "tokenizers.Tokenizer":
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust library raises nothing narrower
        raise InputError(
            f"{file}: not a tokenizer.json ({error}); check the file or save the tokenizer again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A document that happens to spell "</s>" must not end itself.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _special_token_names(folder: Path) -> dict[str, str]:
    """`bos_token` and `eos_token` as the folder's configuration spells them."""
    names: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / file
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not readable as JSON ({error}); save the tokenizer again") from error
        for role in ("bos_token", "eos_token"):
            value = content.get(role)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                names[role] = value
    return names


class SentencePieceTokenizer:
    """A SentencePiece `.model`, encoded by the C++ library.

    Args:
        file: the model.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.added: dict[str, int] = {}
        self._model = _open_sentencepiece(file)
        self.vocab_size = int(self._model.get_piece_size())
        self.bos_id = _or_none(self._model.bos_id())
        self.eos_id = _or_none(self._model.eos_id())
        self.hash = _hash_of(file.read_bytes(), self.bos_id, self.eos_id)

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of each text, as arrays from the C++ side: no list of Python integers in between."""
        return [self._model.encode(text, return_type="numpy") for text in texts]

    def save(self, folder: str | Path) -> None:
        """Copy the model, with the configuration that lets transformers read it as Llama's tokenizer."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            if (self._file.parent / name).is_file():
                shutil.copyfile(self._file.parent / name, folder / name)
        shutil.copyfile(self._file, folder / SENTENCEPIECE_MODEL)
        if not (folder / "tokenizer_config.json").exists():
            atomic_write_json(folder / "tokenizer_config.json", self._transformers_config())

    def _transformers_config(self) -> dict[str, Any]:
        tokens = {
            role: self._model.id_to_piece(index)
            for role, index in (("bos_token", self.bos_id), ("eos_token", self.eos_id))
            if index is not None
        }
        return {
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": self._model.id_to_piece(self._model.unk_id()),
            **tokens,
            "add_bos_token": self.bos_id is not None,
            "add_eos_token": False,
            "legacy": False,
        }


def _open_sentencepiece(file: Path) -> "sentencepiece.SentencePieceProcessor":
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{file}: not a SentencePiece model; check the file or download it again") from error


def _or_none(index: int) -> int | None:
    return index if index >= 0 else None


def _hash_of(content: bytes, bos_id: int | None, eos_id: int | None) -> str:
    return hashlib.sha256(content + f"|bos {bos_id}|eos {eos_id}".encode()).hexdigest()


def load_tokenizer(source: str | Path, added: Sequence[str] = ()) -> Tokenizer:
    """Load a tokenizer from a folder, a `.json` or `.model` file, or the hub.

    In a folder `tokenizer.json` goes before `tokenizer.model`, as in transformers.

    Args:
        source: folder, file, or hub name.
        added: tokens that it gets beside its own.

    Raises:
        InputError: nothing there, not a tokenizer, or one that takes no tokens.
    """
    path = Path(source)
    if path.is_file() and path.suffix != ".model":
        return HuggingFaceTokenizer(path.parent, path, added)
    folder = path if path.is_file() or path.is_dir() else _download(str(source))
    if (folder / TOKENIZER_JSON).is_file():
        return HuggingFaceTokenizer(folder, added=added)
    model = path if path.is_file() else folder / SENTENCEPIECE_MODEL
    if model.is_file() and added:
        raise InputError(
            f"{model}: a SentencePiece model takes no further tokens (tokenize.added_tokens); save it as "
            f"{TOKENIZER_JSON} with transformers"
        )
    if model.is_file():
        return SentencePieceTokenizer(model)
    raise InputError(
        f"{folder}: holds neither {TOKENIZER_JSON} nor {SENTENCEPIECE_MODEL}; "
        "set tokenize.tokenizer to a folder or file that does"
    )


def _download(name: str) -> Path:
    """The tokenizer files of a hub name, from the cache or the network."""
    missing = f"tokenizer {name!r}: no such file or folder"
    if name.count("/") != 1 or name.startswith((".", "/", "~")) or os.environ.get("HF_HUB_OFFLINE") == "1":
        raise InputError(f"{missing}; set tokenize.tokenizer to a tokenizer folder, .model or .json file")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(TOKENIZER_FILES)))
    except Exception as error:  # network, authentication, unknown name: all one answer for the user
        raise InputError(f"{missing}, and the hub did not give it ({error}); check the name") from error
