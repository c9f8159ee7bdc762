"""Readers: from a source's file to documents, and to what cannot be read, with its reason."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import zstandard

from data_curation.readers import (
    books,
    cnxml,
    docling,
    grobid,
    jats,
    medline,
    medquad,
    pages,
    pdf,
    records,
    s2orc,
)
from data_curation.readers.base import (
    ARCHIVES,
    COMPRESSED,
    BadRecord,
    BadXMLError,
    RawDocument,
    TooLargeError,
    plain_name,
    streams,
)
from meditron.config.check import require, require_choice

__all__ = ["BadRecord", "RawDocument", "check_reader", "read_source", "suffixes"]


class Reader(NamedTuple):
    """A format: how a file is read, its endings, and the options it takes."""

    read: Callable[[str, IO[bytes], Mapping[str, Any]], Iterator[RawDocument | BadRecord]]
    endings: tuple[str, ...]
    options: tuple[str, ...] = ()


READERS = {
    "jats": Reader(jats.read_jats, (".nxml", ".xml"), ("citations",)),
    "html": Reader(pages.read_html, (".html", ".htm")),
    "markdown": Reader(pages.read_markdown, (".md", ".markdown")),
    "medquad": Reader(medquad.read_medquad, (".xml",), ("unit",)),
    "cnxml": Reader(cnxml.read_cnxml, (".cnxml",)),
    "pdf": Reader(pdf.read_pdf, (".pdf",), ("seconds",)),
    "grobid": Reader(grobid.read_grobid, (".pdf",), ("url", "seconds")),
    "docling": Reader(docling.read_docling, (".pdf",), ("seconds", "artifacts_path", "ocr")),
    "text": Reader(books.read_text, (".txt",), ("encoding",)),
    "gutenberg": Reader(books.read_gutenberg, (".txt",)),
    "wikitext": Reader(books.read_wikitext, (".txt", ".tokens", ".raw")),
    "medline": Reader(medline.read_medline, (".xml",)),
    "s2orc": Reader(s2orc.read_s2orc, (".json", ".jsonl"), ("citations",)),
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


def check_reader(reader: str, options: Mapping[str, Any]) -> None:
    """Refuse a reader or an option that is not known.

    Raises:
        ConfigError: with the names that are.
    """
    require_choice(reader, READERS, "curate.sources.reader")
    known = READERS[reader].options
    for name in options:
        listed = ", ".join(known) or "none"
        require(name in known, f"options of reader {reader}", name, f"is unknown; known: {listed}")


def read_source(
    path: Path, reader: str, options: Mapping[str, Any], name: str | None = None
) -> Iterator[RawDocument | BadRecord]:
    """Documents of one file or archive; what cannot be read comes as BadRecord, never as an exception.

    Args:
        path: the file.
        reader: name of the format.
        options: that reader's settings.
        name: what the file is called in ids and messages. Default: its name.

    Raises:
        ConfigError: no reader has that name, or an option is not one of its options.
    """
    check_reader(reader, options)
    name = name or path.name
    if path.stat().st_size == 0:
        yield BadRecord(file=name, record=name, reason="is an empty file of 0 bytes")
        return
    archive = path.name.lower().endswith(ARCHIVES)
    for member, stream in streams(path, READERS[reader].endings):
        if isinstance(stream, BadRecord):
            stream.file = name
            yield stream
        else:
            yield from _read_stream(f"{name}!{member}" if archive else name, stream, reader, options)


def _read_stream(
    name: str, stream: IO[bytes], reader: str, options: Mapping[str, Any]
) -> Iterator[RawDocument | BadRecord]:
    try:
        yield from READERS[reader].read(plain_name(name), stream, options)
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 ({error.reason} at byte {error.start:,})"
    except (BadXMLError, TooLargeError) as error:
        reason = " ".join(str(error).split())
    except (EOFError, OSError, zlib.error, zstandard.ZstdError, pa.ArrowException) as error:
        reason = f"is damaged ({' '.join(str(error).split())})"
    else:
        return
    yield BadRecord(file=name, record=plain_name(name), reason=reason)
