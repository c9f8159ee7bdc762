"""Documents as Parquet: what passes between the two passes, and the corpus itself."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_curation.dedup.work import WORK_BYTES
from meditron.files import disk_errors

ROW_GROUP_CHARACTERS = 8 * 2**20
ROW_GROUP_DOCUMENTS = 4096
CORPUS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("title", pa.string()),
        ("license", pa.string()),
        ("metadata", pa.string()),
    ]
)
"""Columns of the corpus; `metadata` is a JSON object."""
PART_COLUMNS = {"key": 16, "work": WORK_BYTES}
"""Further columns of a part and their bytes: what equal documents share, and what names the work."""
PART_SCHEMA = pa.schema(
    [
        *CORPUS_SCHEMA,
        *((name, pa.binary(size)) for name, size in PART_COLUMNS.items()),
        ("characters", pa.int64()),
    ]
)
"""Columns of a part; `characters` is the length of the text."""


class PartWriter:
    """Writes documents to a Parquet file that appears when it is whole.

    Row groups are bounded in characters and documents, so that neither the writer nor a later reader
    holds more than one group (or one document, where that is larger).

    Args:
        path: the file.
        schema: its columns.
    """

    def __init__(self, path: Path, schema: pa.Schema = CORPUS_SCHEMA) -> None:
        self._path, self._schema = path, schema
        self._aside = path.with_name(f".{path.name}.part")
        self._rows: list[Mapping[str, Any]] = []
        self._characters = 0

    def __enter__(self) -> Self:
        """Open the file aside."""
        with disk_errors(self._path):
            self._writer = pq.ParquetWriter(self._aside, self._schema, compression="zstd")
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one document."""
        self._rows.append(row)
        self._characters += len(row["text"])
        if self._characters >= ROW_GROUP_CHARACTERS or len(self._rows) >= ROW_GROUP_DOCUMENTS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            with disk_errors(self._path):
                self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._characters = [], 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the file its name, or remove it after an error."""
        try:
            if kind is None:
                self._flush()
            with disk_errors(self._path):
                self._writer.close()
                if kind is None:
                    os.replace(self._aside, self._path)
        finally:
            self._aside.unlink(missing_ok=True)


def read_rows(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Documents of a file, one row group in memory at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group, columns=columns).to_pylist()


def read_ids(path: Path) -> pa.ChunkedArray:
    """Ids of a file's documents, in order."""
    return pq.read_table(path, columns=["id"])["id"]


def read_fixed(path: Path, column: str, dtype: str) -> npt.NDArray[Any]:
    """A column of equally many bytes a document, as numbers: [documents, numbers]."""
    width = PART_COLUMNS[column] // np.dtype(dtype).itemsize
    joined = b"".join(b"".join(group.to_pylist()) for group in _groups(path, column))
    return np.frombuffer(joined, dtype=dtype).reshape(-1, width)


def read_lengths(path: Path) -> npt.NDArray[np.int64]:
    """Characters of each document's text, [documents]."""
    return np.concatenate(
        [np.empty(0, np.int64), *(group.to_numpy() for group in _groups(path, "characters"))]
    )


def _groups(path: Path, column: str) -> Iterator[pa.ChunkedArray]:
    """A column, one row group in memory at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=[column])[column]
