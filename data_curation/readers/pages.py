"""Web pages and markdown files."""

import re
from collections.abc import Iterator, Mapping
from typing import IO, Any

from lxml import etree, html

from data_curation.readers.base import RawDocument, read_whole
from data_curation.readers.markup import Markup
from data_curation.readers.maths import name_of

_CHARSET = re.compile(rb"<meta[^>]+charset=[\"']?([\w-]+)", re.I)


def read_html(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument]:
    """A web page: its main element (or article, or body), without navigation, header and footer."""
    content = _decoded(read_whole(handle))
    if not content.strip():
        yield RawDocument(id=name, text="")
        return
    root = html.document_fromstring(content, parser=html.HTMLParser(remove_comments=True, huge_tree=True))
    main = next(
        (found for tag in ("main", "article", "body") if (found := root.find(f".//{tag}")) is not None), root
    )
    for node in list(main):
        if name_of(node) == "footer" or (name_of(node) == "header" and node.find(".//h1") is None):
            main.remove(node)
    markup = Markup()
    parts = list(markup.blocks(main))
    heading, page_title = root.find(".//h1"), root.find(".//title")
    named = heading if heading is not None else page_title
    title = markup.inline(named) if named is not None else ""
    if heading is None and title and parts:
        parts.insert(0, f"# {title}")
    yield RawDocument(id=name, text="\n\n".join(parts), title=title, metadata=_metadata(name, root))


def _decoded(content: bytes) -> str:
    """Text of a page: UTF-8, or what it declares where it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        declared = _CHARSET.search(content[:4096])
        if declared is None or declared[1].lower() in (b"utf-8", b"utf8"):
            raise
        try:
            return content.decode(declared[1].decode("ascii"))
        except LookupError as error:
            raise UnicodeDecodeError("utf-8", content[:1], 0, 1, str(error)) from error


def _metadata(name: str, root: etree._Element) -> dict[str, str]:
    link = root.find(".//link[@rel='canonical']")
    url = link.get("href", "") if link is not None else ""
    return {"file": name, **({"url": url} if url else {}), **_language(root)}


def _language(root: etree._Element) -> dict[str, str]:
    declared = root.get("lang", "")
    return {"declared_language": declared} if declared else {}


def read_markdown(name: str, handle: IO[bytes], options: Mapping[str, Any]) -> Iterator[RawDocument]:
    """A markdown file as it is; its first heading is the title."""
    text = read_whole(handle).decode("utf-8-sig")
    heading = next((line for line in text.splitlines() if line.startswith("#")), "")
    yield RawDocument(id=name, text=text, title=heading.lstrip("# ").strip(), metadata={"file": name})
