"""Readers: from a source's file to documents, and to what cannot be read, with its reason."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import zstandard

from data_curation.readers import articles, records
from data_curation.readers.base import (
    ARCHIVES,
    COMPRESSED,
    BadRecord,
    BadXMLError,
    RawDocument,
    plain_name,
    streams,
)
from meditron.config.check import require_choice

__all__ = ["BadRecord", "RawDocument", "read_source", "suffixes"]


class Reader(NamedTuple):
    """A format: how a file is read, its endings, and the options it takes."""

    read: Callable[[str, IO[bytes], Mapping[str, Any]], Iterator[RawDocument | BadRecord]]
    endings: tuple[str, ...]
    options: tuple[str, ...] = ()


READERS = {
    "jats": Reader(articles.read_jats, (".nxml", ".xml")),
    "html": Reader(articles.read_html, (".html", ".htm")),
    "markdown": Reader(articles.read_markdown, (".md", ".markdown")),
    "medquad": Reader(articles.read_medquad, (".xml",)),
    "cnxml": Reader(articles.read_cnxml, (".cnxml",)),
    "medline": Reader(records.read_medline, (".xml",)),
    "jsonl": Reader(records.read_jsonl, (".jsonl", ".ndjson"), records.RECORD_OPTIONS),
    "parquet": Reader(records.read_parquet, (".parquet",), records.RECORD_OPTIONS),
}
"""Formats by the name that `curate.sources.<name>.reader` gives."""


def suffixes(reader: str) -> tuple[str, ...]:
    """Endings of the files a reader takes: its own, compressed, and archives of them.

    Raises:
        ConfigError: no reader has that name.
    """
    require_choice(reader, READERS, "curate.sources.reader")
    own = READERS[reader].endings
    return (*own, *(ending + packed for ending in own for packed in COMPRESSED), *ARCHIVES)


def read_source(path: Path, reader: str, options: Mapping[str, Any]) -> Iterator[RawDocument | BadRecord]:
    """Documents of one file or archive; what cannot be read comes as BadRecord, never as an exception.

    Raises:
        ConfigError: no reader has that name, or an option is not one of its options.
    """
    require_choice(reader, READERS, "curate.sources.reader")
    read, endings, known = READERS[reader]
    records.check_options(reader, options, known)
    archive = path.name.lower().endswith(ARCHIVES)
    for name, stream in streams(path, endings):
        if isinstance(stream, BadRecord):
            yield stream
            continue
        where = f"{path.name}!{name}" if archive else name
        try:
            for record in read(name, stream, options):
                if isinstance(record, RawDocument) and not record.text.strip():
                    yield BadRecord(file=where, record=record.id, reason="has no text")
                elif isinstance(record, RawDocument):
                    yield record
                else:
                    record.file = where
                    yield record
        except UnicodeDecodeError as error:
            yield BadRecord(file=where, record=plain_name(name), reason=f"is not UTF-8 ({error.reason})")
        except BadXMLError as error:
            yield BadRecord(file=where, record=plain_name(name), reason=" ".join(str(error).split()))
        except (EOFError, OSError, zlib.error, zstandard.ZstdError, pa.ArrowException) as error:
            yield BadRecord(file=where, record=plain_name(name), reason=f"is damaged ({error})")
