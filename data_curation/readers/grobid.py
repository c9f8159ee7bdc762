"""PDF articles by way of a GROBID server, which tells sections, tables, formulae and citations apart."""

import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import IO, Any

from lxml import etree

from data_curation.readers.base import BadRecord, RawDocument, parse_xml, read_whole
from data_curation.readers.markup import Markup
from data_curation.readers.maths import name_of
from meditron.config.check import require
from meditron.errors import EnvironmentMissingError

DEFAULT_URL = "http://localhost:8070"
DEFAULT_SECONDS = 300.0
_BUSY_PAUSE_SECONDS = 2.0
_NAMES = {
    "div": "sec",
    "figdesc": "caption",
    "row": "tr",
    "cell": "td",
    "ref": "xref",
    "formula": "disp-formula",
    "item": "list-item",
    "note": "fn",
    "hi": "span",
}
"""Elements of GROBID's TEI (in lower case) to those of JATS, which `Markup` knows."""


def read_grobid(
    name: str, handle: IO[bytes], options: Mapping[str, Any]
) -> Iterator[RawDocument | BadRecord]:
    """A PDF article: title, abstract and body; the option `url` names the server.

    What the server cannot read in the option `seconds` (default 300) is given up.

    Raises:
        EnvironmentMissingError: no GROBID server answers there.
    """
    url = str(options.get("url", DEFAULT_URL)).rstrip("/")
    seconds = float(options.get("seconds", DEFAULT_SECONDS))
    require(seconds > 0, "options of reader grobid: seconds", seconds, "must be positive")
    try:
        answer = _ask(f"{url}/api/processFulltextDocument", read_whole(handle), seconds)
    except urllib.error.HTTPError as error:
        reason = f"GROBID cannot read it (status {error.code})"
        yield BadRecord(file=name, record=name, reason=reason)
    except TimeoutError:
        yield BadRecord(file=name, record=name, reason=f"took GROBID longer than {seconds:g} s")
    except urllib.error.URLError as error:
        raise EnvironmentMissingError(
            f"curate.sources: no GROBID server answers at {url} ({error.reason}); start one, set the "
            "source's option url, or use the reader pdf"
        ) from error
    else:
        yield tei_document(name, answer)


def _ask(url: str, pdf: bytes, seconds: float) -> bytes:
    """The server's TEI of a PDF; while it is busy (status 503) it is asked again."""
    boundary = secrets.token_hex(16)
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="input"; filename="article.pdf"\r\n'
    body = head.encode() + b"Content-Type: application/pdf\r\n\r\n" + pdf + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Accept": "application/xml"}
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        try:
            request = urllib.request.Request(url, body, headers)
            with urllib.request.urlopen(request, timeout=left) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            time.sleep(min(_BUSY_PAUSE_SECONDS, left))
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise TimeoutError from error
            raise


def tei_document(name: str, content: bytes) -> RawDocument:
    """GROBID's TEI as a document.

    Raises:
        BadXMLError: it is no XML.
    """
    root = parse_xml(content)
    nodes = {name_of(node): node for node in reversed(list(root.iter()))}  # the first of each name
    markup = Markup()
    title = markup.inline(nodes["title"]) if "title" in nodes else ""
    metadata = dict(_identifiers(root))
    parts: list[str] = []
    for part, heading in (("abstract", "## Abstract"), ("body", "")):
        if part in nodes:
            _rename(nodes[part])
            blocks = list(markup.blocks(nodes[part]))
            parts += [heading, *blocks] if heading and blocks else blocks
    return RawDocument(
        id=metadata.get("doi") or name,
        text="\n\n".join([f"# {title}", *parts] if title and parts else parts),
        title=title,
        metadata={"file": name, **metadata},
    )


def _identifiers(root: etree._Element) -> Iterator[tuple[str, str]]:
    """DOI, PMID and PMCID of the article itself, which stand before its references."""
    for node in root.iter():
        if name_of(node) == "text":
            return
        kind = node.get("type", "").lower() if name_of(node) == "idno" else ""
        if kind in ("doi", "pmid", "pmcid") and node.text:
            yield kind, node.text.strip()


def _rename(part: etree._Element) -> None:
    """Give the elements of a part the names that JATS has for them."""
    for node in list(part.iter()):
        name, parent = name_of(node), node.getparent()
        if name == "figure":
            node.tag = "table-wrap" if node.get("type") == "table" else "fig"
        elif name == "label" and parent is not None and parent.tag in ("fig", "table-wrap"):
            parent.remove(node)  # the number alone, which `head` has with its word
        elif name == "head":
            node.tag = "label" if parent is not None and parent.tag in ("fig", "table-wrap") else "title"
        elif name in _NAMES:
            node.tag = _NAMES[name]
        if name == "ref" and node.get("type") == "bibr":
            node.set("ref-type", "bibr")
        if name == "cell" and node.get("cols"):
            node.set("colspan", node.get("cols", "1"))
