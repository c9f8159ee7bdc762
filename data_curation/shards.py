"""Megatron's indexed format: token ids in a `.bin`, lengths and offsets of its sequences in an `.idx`.

The `.idx` (little-endian) is: the magic, version (u64), code of the id's type (u8), number of
sequences n (u64), number of document bounds n + 1 (u64), lengths (i32 x n), byte offsets (i64 x n),
document bounds (i64 x n + 1). Here every document is one sequence.
"""

import shutil
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from meditron.errors import InputError
from meditron.files import atomic_write

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
TYPE_CODES = {"int32": 4, "uint16": 8}
"""Codes of the id types that are written here; megatron's `DType` has more."""
UINT16_LIMIT = 65500
"""Vocabularies under this many ids are stored in two bytes (megatron's `DType.optimal_dtype`)."""
COPY_BYTES = 16 * 2**20

Lengths = npt.NDArray[np.int32]


def id_type(vocab_size: int) -> "np.dtype[np.uint16] | np.dtype[np.int32]":
    """The type that ids of a vocabulary are stored in."""
    return np.dtype(np.uint16) if vocab_size < UINT16_LIMIT else np.dtype(np.int32)


def write_index(path: Path, lengths: Lengths, dtype: "np.dtype[np.uint16] | np.dtype[np.int32]") -> None:
    """Write the `.idx` of documents of `lengths` tokens stored one after the other as `dtype`."""
    ends = np.cumsum(lengths, dtype=np.int64) * dtype.itemsize
    offsets = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
    with atomic_write(path) as handle:
        handle.write(MAGIC)
        handle.write(struct.pack("<QB", VERSION, TYPE_CODES[dtype.name]))
        handle.write(struct.pack("<QQ", len(lengths), len(lengths) + 1))
        handle.write(lengths.astype("<i4").tobytes())
        handle.write(offsets.astype("<i8").tobytes())
        handle.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())


def save_part(path: Path, pieces: Iterable[tuple[bytes, Lengths]]) -> None:
    """Write a part of a shard: ids to `path`, and then, as the sign that it is whole, its lengths.

    Args:
        path: where the ids go; the lengths go to the same name with `.npy`.
        pieces: ids as bytes and the lengths of their documents, in order.
    """
    all_lengths = []
    with atomic_write(path) as handle:
        for ids, lengths in pieces:
            handle.write(ids)
            all_lengths.append(lengths)
    joined = np.concatenate(all_lengths) if all_lengths else np.zeros(0, np.int32)
    with atomic_write(lengths_path(path)) as handle:
        np.save(handle, joined)


def lengths_path(part: Path) -> Path:
    """The file with the document lengths of a part."""
    return part.with_name(f"{part.name}.npy")


def join_parts(
    parts: Iterable[Path], prefix: Path, dtype: "np.dtype[np.uint16] | np.dtype[np.int32]"
) -> Lengths:
    """Join parts, in order, to `<prefix>.bin` and `<prefix>.idx`.

    Returns:
        the lengths of all documents.

    Raises:
        InputError: a part is not as long as its lengths say.
    """
    parts = list(parts)
    loaded: list[Lengths] = [np.load(lengths_path(part), allow_pickle=False) for part in parts]
    with atomic_write(prefix.with_name(f"{prefix.name}.bin")) as target:
        for part, lengths in zip(parts, loaded, strict=True):
            if part.stat().st_size != int(lengths.sum(dtype=np.int64)) * dtype.itemsize:
                raise InputError(f"{part}: was cut short; remove the folder it is in and start again")
            with open(part, "rb") as source:
                shutil.copyfileobj(source, target, COPY_BYTES)
    lengths = np.concatenate(loaded)
    write_index(prefix.with_name(f"{prefix.name}.idx"), lengths, dtype)
    return lengths
