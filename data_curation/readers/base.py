"""What a reader yields, and how it finds the bytes: plain, compressed, or inside a tar archive."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import zstandard
from lxml import etree

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
COMPRESSED = (".gz", ".zst")
MAX_DOCUMENT_BYTES = 2**28
"""Largest file of one document, and largest line of a file of records."""
MAX_RATIO = 200
"""Decompressed to compressed size from which data is a bomb: text reaches 20, a run of zeros 1000."""
_RATIO_FLOOR = 2**26


@dataclass(kw_only=True)
class RawDocument:
    """One document as the source has it."""

    id: str
    """Unique within the source."""
    text: str
    """Markdown, its title included; empty where the record has none, such as a title without abstract."""
    title: str = ""
    """Title alone."""
    license: str = ""
    """Licence that the document itself names."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What else is known: identifiers, journal, year."""
    same_text: str = ""
    """The part of the text that equal documents share, where that is not all of it."""


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


class TooLargeError(ValueError):
    """Data that is larger than any document, or grows without bound when decompressed."""


def streams(path: Path, endings: tuple[str, ...]) -> Iterator[tuple[str, IO[bytes] | BadRecord]]:
    """Each file that `path` means, decompressed: itself, or an archive's members with one of the endings.

    Archives are streamed; nothing is written to disk. A damaged archive ends with a BadRecord, and a
    member that is no plain file or whose name leads out of the archive is one.
    """
    if not path.name.lower().endswith(ARCHIVES):
        with open(path, "rb") as handle:
            yield path.name, _decompressed(path.name, handle)
        return
    last = "its beginning"
    try:
        with open(path, "rb") as handle, tarfile.open(fileobj=_unpacked(path, handle), mode="r|") as archive:
            for member in archive:
                if not plain_name(member.name).lower().endswith(endings) or member.isdir():
                    continue
                last = member.name
                reason = _refusal(member)
                if reason:
                    yield member.name, BadRecord(file=path.name, record=member.name, reason=reason)
                    continue
                content = archive.extractfile(member)
                assert content is not None, "a regular file has content"
                yield member.name, _decompressed(member.name, content)
    except (tarfile.TarError, EOFError, OSError, zlib.error, zstandard.ZstdError, TooLargeError) as error:
        reason = f"damaged archive after {last} ({error})"
        yield path.name, BadRecord(file=path.name, record="archive", reason=reason)


def _refusal(member: tarfile.TarInfo) -> str:
    if not member.isfile():
        return "is a link or a device in an archive, which is refused for safety"
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        return "its name leads out of the archive, which is refused for safety"
    return ""


def _unpacked(path: Path, handle: IO[bytes]) -> IO[bytes]:
    name = path.name.lower()
    return _decompressed(f"{name[:-4]}.gz" if name.endswith(".tgz") else name, handle)


def _decompressed(name: str, handle: IO[bytes]) -> IO[bytes]:
    counted = _Counted(handle)
    if name.endswith(".gz"):
        return cast(IO[bytes], io.BufferedReader(_Limited(gzip.GzipFile(fileobj=counted), counted)))
    if name.endswith(".zst"):
        reader = zstandard.ZstdDecompressor().stream_reader(cast(IO[bytes], counted), read_across_frames=True)
        return io.BufferedReader(_Limited(reader, counted))
    return handle


class _Counted(io.RawIOBase):
    """Counts the compressed bytes that were taken."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self.count = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._handle.read(size)
        self.count += len(data)
        return data


class _Limited(io.RawIOBase):
    """Refuses to go on when far more bytes come out than went in."""

    def __init__(self, handle: Any, source: _Counted) -> None:  # noqa: ANN401 - gzip's or zstandard's
        self._handle, self._source = handle, source
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        data = self._handle.read(len(buffer))
        buffer[: len(data)] = data
        self._given += len(data)
        if self._given > _RATIO_FLOOR and self._given > MAX_RATIO * self._source.count:
            raise TooLargeError(
                f"decompresses to over {MAX_RATIO} times its size, which is refused for safety"
            )
        return len(data)


def read_whole(handle: IO[bytes]) -> bytes:
    """All bytes of a file of one document.

    Raises:
        TooLargeError: it is larger than `MAX_DOCUMENT_BYTES`.
    """
    content = handle.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise TooLargeError(f"is larger than {MAX_DOCUMENT_BYTES >> 20} MiB, the limit for one document")
    return content


def plain_name(name: str) -> str:
    """A file name without the ending of its compression."""
    return next((name.removesuffix(ending) for ending in COMPRESSED if name.endswith(ending)), name)


def check_entities(head: bytes) -> None:
    """Refuse XML that declares entities: they can name local files or grow without bound."""
    if b"<!ENTITY" in head or b"<\0!\0E\0N\0T\0" in head or b"\0<\0!\0E\0N\0T" in head:
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
