"""What a reader yields, and how it finds the bytes: plain, compressed, or inside a tar archive."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import zstandard
from lxml import etree

ARCHIVES = (".tar", ".tar.gz", ".tgz")
COMPRESSED = (".gz", ".zst")


@dataclass(kw_only=True)
class RawDocument:
    """One document as the source has it."""

    id: str
    """Unique within the source."""
    text: str
    """Markdown, its title included."""
    title: str = ""
    """Title alone."""
    license: str = ""
    """Licence that the document itself names."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What else is known: identifiers, journal, year."""


@dataclass(kw_only=True)
class BadRecord:
    """A record that cannot be read."""

    file: str
    """File, or `archive!member`."""
    record: str
    """Line or position in the file."""
    reason: str
    """Why, in one line."""


class BadXMLError(ValueError):
    """XML that is broken or not safe to read."""


def streams(path: Path, endings: tuple[str, ...]) -> Iterator[tuple[str, IO[bytes] | BadRecord]]:
    """Each file that `path` means, decompressed: itself, or an archive's members with one of the endings.

    Archives are streamed; nothing is written to disk. A damaged archive ends with a BadRecord.
    """
    if not path.name.lower().endswith(ARCHIVES):
        with open(path, "rb") as handle:
            yield path.name, _decompressed(path.name, handle)
        return
    last = "its beginning"
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.isfile() and plain_name(member.name).lower().endswith(endings):
                    last = member.name
                    content = archive.extractfile(member)
                    assert content is not None, "a regular file has content"
                    yield member.name, _decompressed(member.name, io.BytesIO(content.read()))
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        reason = f"damaged archive after {last} ({error})"
        yield path.name, BadRecord(file=path.name, record="archive", reason=reason)


def _decompressed(name: str, handle: IO[bytes]) -> IO[bytes]:
    if name.endswith(".gz"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=handle))
    if name.endswith(".zst"):
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(handle))
    return handle


def plain_name(name: str) -> str:
    """A file name without the ending of its compression."""
    return next((name.removesuffix(ending) for ending in COMPRESSED if name.endswith(ending)), name)


def check_entities(head: bytes) -> None:
    """Refuse XML that declares entities: they can name local files or grow without bound."""
    if b"<!ENTITY" in head or b"<\0!\0E\0N\0T\0" in head:
        raise BadXMLError("declares XML entities, which are refused for safety")


def parse_xml(content: bytes) -> etree._Element:
    """The root element; no entity is expanded, no DTD read, nothing fetched.

    Raises:
        BadXMLError: not well-formed, not in its declared encoding, or declares entities.
    """
    check_entities(content)
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=True, remove_comments=True,
        remove_pis=True,
    )  # fmt: skip
    try:
        return etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        raise BadXMLError(f"not well-formed XML ({error})") from error
    except ValueError as error:
        raise BadXMLError(f"not readable as XML ({error})") from error
