"""Encoding in worker processes; a row group of the corpus is the unit of parallel work and of resuming."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_curation.shards import Lengths, id_type, lengths_path, save_part
from meditron.errors import InputError, MeditronError
from meditron.progress import progress
from meditron.tokenizers import Tokenizer, load_tokenizer

MEGABYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class Part:
    """One row group of one corpus file, and where its ids go."""

    source: str
    """Source name."""
    split: str
    """`train` or `validation`."""
    file: Path
    """Parquet file of the corpus."""
    group: int
    """Index of the row group in `file`."""
    bytes: int
    """Size of the group's texts, for the order of work and for progress."""
    path: Path
    """File of the ids, see `save_part`."""


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """What every worker must know."""

    tokenizer: str
    """Folder or file of the tokenizer."""
    added_tokens: tuple[str, ...]
    """Tokens that it gets beside its own."""
    append_eos: bool
    """End each document with the end-of-sequence token."""
    batch_bytes: int
    """Text handed to the tokenizer at once."""


_worker: tuple[Tokenizer, EncodeSettings] | None = None
"""Tokenizer and settings of this worker process, set once by `_start_worker`."""


def encode_parts(parts: Sequence[Part], settings: EncodeSettings, workers: int) -> None:
    """Encode every part that is not there yet.

    Raises:
        InputError: a part's texts cannot be read.
        DiskFullError: the disk is full; parts that are whole stay.
        MeditronError: a worker was killed from outside.
    """
    left = [part for part in parts if not lengths_path(part.path).exists()]
    # The largest first, so that no worker is left alone with a large part at the end.
    left.sort(key=lambda part: -part.bytes)
    total, todo = (sum(part.bytes for part in some) / MEGABYTE for some in (parts, left))
    with progress(total, "tokenize", "MB") as task:
        task.start_at(total - todo)
        if not left:
            return
        with ProcessPoolExecutor(
            min(workers, len(left)),
            mp_context=multiprocessing.get_context("spawn"),  # a fork would copy the caller's locks
            initializer=_start_worker,
            initargs=(settings,),
        ) as pool:
            futures = {pool.submit(_encode_part, part): part for part in left}
            try:
                for future in as_completed(futures):
                    future.result()
                    task.advance(futures[future].bytes / MEGABYTE)
            except BrokenProcessPool:
                raise MeditronError(
                    "tokenize: a worker process was killed, most likely for want of memory; "
                    "lower tokenize.workers and start the same command again, finished parts are kept"
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)


def _start_worker(settings: EncodeSettings) -> None:
    global _worker
    # The processes are the parallelism; threads inside each would only fight over the cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker = (load_tokenizer(settings.tokenizer, settings.added_tokens), settings)


def _encode_part(part: Part) -> None:
    assert _worker is not None, "the pool's initializer ran"
    save_part(part.path, _encode(part, *_worker))


def _encode(part: Part, tokenizer: Tokenizer, settings: EncodeSettings) -> Iterator[tuple[bytes, Lengths]]:
    eos = [np.array([tokenizer.eos_id], np.int32)] if settings.append_eos else []
    dtype = id_type(tokenizer.vocab_size)
    for texts in _batches(part, settings.batch_bytes):
        arrays = [array for ids in tokenizer.encode_batch(texts) for array in (ids, *eos)]
        lengths = np.fromiter((len(array) for array in arrays), np.int32, len(arrays))
        if eos:
            lengths = lengths[0::2] + lengths[1::2]
        yield np.concatenate(arrays).astype(dtype).tobytes(), lengths


def _batches(part: Part, batch_bytes: int) -> Iterator[list[str]]:
    """The texts of a part, cut where `batch_bytes` are reached; a longer document is alone."""
    try:
        with pq.ParquetFile(part.file, memory_map=True) as file:
            column = file.read_row_group(part.group, columns=["text"])["text"].combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{part.file}: row group {part.group} cannot be read ({error}); run `meditron curate` again"
        ) from error
    if column.null_count:
        raise InputError(f"{part.file}: a document without text; run `meditron curate` again")
    sizes = np.asarray(pc.binary_length(column), dtype=np.int64)
    start, size = 0, 0
    for index, length in enumerate(sizes):
        if index > start and size + length > batch_bytes:
            yield column.slice(start, index - start).to_pylist()
            start, size = index, 0
        size += int(length)
    if start < len(sizes):
        yield column.slice(start).to_pylist()
