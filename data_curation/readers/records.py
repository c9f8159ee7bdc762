"""Readers of many records a file: MEDLINE, JSON lines and Parquet."""

import json
from collections.abc import Iterator, Mapping
from typing import IO, Any

import pyarrow.parquet as pq
from lxml import etree

from data_curation.readers.base import BadRecord, BadXMLError, RawDocument, check_entities
from data_curation.readers.markup import inline, name_of
from meditron.config.check import require

_HEAD = 2**16


def read_medline(
    name: str, handle: IO[bytes], options: Mapping[str, Any]
) -> Iterator[RawDocument | BadRecord]:
    """Articles of a PubMed file, one in memory at a time; labels of structured abstracts are kept."""
    head = handle.read(_HEAD)
    check_entities(head)
    parser = etree.XMLPullParser(
        events=("end",), resolve_entities=False, no_network=True, load_dtd=False, huge_tree=True
    )
    try:
        while head:
            parser.feed(head)
            yield from _articles(parser)
            head = handle.read(_HEAD)
        parser.close()
    except etree.XMLSyntaxError as error:
        raise BadXMLError(f"not well-formed XML ({error})") from error


def _articles(parser: "etree.XMLPullParser") -> Iterator[RawDocument]:
    for _, element in parser.read_events():
        assert isinstance(element, etree._Element), "only end events are asked for"
        if name_of(element) in ("pubmedarticle", "pubmedbookarticle"):
            yield _medline_document(element)
            parent = element.getparent()
            element.clear()
            if parent is not None:
                parent.remove(element)


def _medline_document(article: etree._Element) -> RawDocument:
    def texts(path: str) -> list[str]:
        return [inline(node) for node in article.iterfind(path)]

    title = next(iter(texts(".//ArticleTitle")), "")
    sections = []
    for node in article.iterfind(".//Abstract/AbstractText"):
        label, text = node.get("Label"), inline(node)
        if text:
            sections.append(f"**{label.capitalize()}:** {text}" if label else text)
    pmid = next(iter(texts(".//PMID")), "")
    ids = {
        node.get("IdType", "id"): inline(node)
        for node in article.iterfind("./PubmedData/ArticleIdList/ArticleId")
    }
    return RawDocument(
        id=pmid,
        text="\n\n".join([f"# {title}", *sections]) if sections else "",
        title=title,
        metadata={"pmid": pmid, **ids, "journal": next(iter(texts(".//Journal/Title")), "")},
    )


def read_jsonl(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument | BadRecord]:
    """JSON lines; options `text_field`, `id_field`, `title_field` (default text, id, title)."""
    for number, line in enumerate(handle, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            yield BadRecord(file=name, record=f"line {number}", reason=f"not JSON ({error})")
            continue
        yield _from_mapping(name, f"line {number}", record, options)


def read_parquet(
    name: str, handle: IO[bytes], options: Mapping[str, Any]
) -> Iterator[RawDocument | BadRecord]:
    """Parquet rows; options as `read_jsonl`."""
    number = 0
    for batch in pq.ParquetFile(handle).iter_batches(batch_size=256):
        for record in batch.to_pylist():
            number += 1
            yield _from_mapping(name, f"row {number}", record, options)


def _from_mapping(
    file: str, where: str, record: object, options: Mapping[str, Any]
) -> RawDocument | BadRecord:
    if not isinstance(record, dict):
        return BadRecord(file=file, record=where, reason="is no object with fields")
    field = options.get("text_field", "text")
    text = record.get(field)
    if not isinstance(text, str):
        return BadRecord(file=file, record=where, reason=f"has no text in field {field!r}")
    return RawDocument(
        id=str(record.get(options.get("id_field", "id")) or f"{file}:{where}"),
        text=text,
        title=str(record.get(options.get("title_field", "title")) or ""),
        license=str(record.get("license") or ""),
    )


RECORD_OPTIONS = ("text_field", "id_field", "title_field")


def check_options(reader: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse an option that the reader does not know."""
    for name in options:
        require(
            name in known,
            f"options of reader {reader}",
            name,
            f"is unknown; known: {', '.join(known) or 'none'}",
        )
