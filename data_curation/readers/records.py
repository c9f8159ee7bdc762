"""Readers of many records a file: JSON lines and Parquet."""

import io
import json
from collections.abc import Iterator, Mapping
from typing import IO, Any

import pyarrow.parquet as pq

from data_curation.readers.base import MAX_DOCUMENT_BYTES, BadRecord, RawDocument, TooLargeError, read_whole

RECORD_OPTIONS = ("text_field", "id_field", "title_field", "license_field")
_BATCH_ROWS = 64


def read_jsonl(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument | BadRecord]:
    """JSON lines; options `text_field`, `id_field`, `title_field`, `license_field` name other fields than
    `text`, `id`, `title` and `license`.

    Other fields that are a text or a number become metadata.
    """
    for number, line in enumerate(lines_of(handle), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield BadRecord(file=name, record=f"line {number}", reason=f"not JSON ({error})")
            continue
        yield _from_mapping(name, f"line {number}", record, options)


def lines_of(handle: IO[bytes]) -> Iterator[bytes]:
    """Lines of a file, refusing one that is larger than any document."""
    while line := handle.readline(MAX_DOCUMENT_BYTES + 1):
        if len(line) > MAX_DOCUMENT_BYTES:
            raise TooLargeError(f"a line is longer than {MAX_DOCUMENT_BYTES >> 20} MiB")
        yield line


def read_parquet(
    name: str, handle: IO[bytes], options: Mapping[str, Any]
) -> Iterator[RawDocument | BadRecord]:
    """Parquet rows; options as `read_jsonl`."""
    file = pq.ParquetFile(handle if handle.seekable() else io.BytesIO(read_whole(handle)))
    field = options.get("text_field", "text")
    if field not in file.schema_arrow.names:
        found = ", ".join(file.schema_arrow.names[:10]) or "none"
        yield BadRecord(file=name, record="schema", reason=f"has no column {field!r}; its columns: {found}")
        return
    number = 0
    for batch in file.iter_batches(batch_size=_BATCH_ROWS):
        for record in batch.to_pylist():
            number += 1
            yield _from_mapping(name, f"row {number}", record, options)


def _from_mapping(
    file: str, where: str, record: object, options: Mapping[str, Any]
) -> RawDocument | BadRecord:
    if not isinstance(record, dict):
        return BadRecord(file=file, record=where, reason="is no object with fields")
    names = {key: options.get(f"{key}_field", key) for key in ("text", "id", "title", "license")}
    text = record.get(names["text"])
    if text is not None and not isinstance(text, str):
        return BadRecord(file=file, record=where, reason=f"field {names['text']!r} holds no text")
    if names["text"] not in record:
        return BadRecord(file=file, record=where, reason=f"has no text in field {names['text']!r}")
    rest = {
        key: value
        for key, value in record.items()
        if key not in names.values() and isinstance(value, str | int | float) and value != ""
    }
    return RawDocument(
        id=str(record.get(names["id"]) or f"{file}:{where}"),
        text=text or "",
        title=str(record.get(names["title"]) or ""),
        license=str(record.get(names["license"]) or ""),
        metadata=rest,
    )
