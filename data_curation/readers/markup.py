"""JATS, HTML and CNXML as markdown: one walk over the tree, with what each element name means."""

import re
from collections.abc import Iterator

from lxml import etree

SUPERSCRIPTS = str.maketrans("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
SUBSCRIPTS = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
_SUPERSCRIPT = re.compile(r"[0-9+\-−=()n]+")
_SUBSCRIPT = re.compile(r"[0-9+\-−=()]+")

SKIPPED = frozenset(
    word
    for line in (
        "script style noscript nav form button iframe svg aside template head ref-list journal-",
        "meta contrib-group aff author-notes permissions pub-date history related-article self-",
        "uri counts custom-meta-group supplementary-material object-id label ack fn-group",
        "metadata",
    )
    for word in line.split()
)
"""Elements whose text is not part of what a document says; labels are taken up by their parents."""
SECTIONS = frozenset(["sec", "section", "abstract", "app"])
PARAGRAPHS = frozenset(
    word
    for line in ("p para dd dt attrib disp-quote blockquote pre verse-line caption figcaption",)
    for word in line.split()
)
LISTS = frozenset(["list", "ul", "ol", "def-list"])
TABLES = frozenset(["table-wrap", "table"])
FIGURES = frozenset(["fig", "figure"])
HEADINGS = {f"h{level}": level for level in range(1, 7)}


def name_of(element: etree._Element) -> str:
    """Local name in lower case; empty for what is no element, such as an entity reference."""
    tag = element.tag
    return etree.QName(tag).localname.lower() if isinstance(tag, str) else ""


def inline(element: etree._Element) -> str:
    """Text of an element in reading order on one line; formulae, citations, powers stay in place."""
    return " ".join("".join(_pieces(element)).split())


def _pieces(element: etree._Element) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        yield _inline_child(child)
        yield child.tail or ""


def _inline_child(child: etree._Element) -> str:
    name = name_of(child)
    if name in ("sup", "sub"):
        return _script(child, name)
    if name == "xref" and child.get("ref-type") == "bibr" and len(child) and name_of(child[0]) == "sup":
        return f" [{inline(child)}]" if not (child.text or "").strip() else inline(child)
    if name in ("inline-formula", "disp-formula", "math"):
        return formula(child)
    if name == "br":
        return " "
    if name in SKIPPED and name != "label":
        return ""
    return "".join(_pieces(child))


def _script(element: etree._Element, name: str) -> str:
    text = inline(element)
    references = [child for child in element if name_of(child) == "xref" and child.get("ref-type") == "bibr"]
    if name == "sup" and references:
        return f" [{text}]"
    pattern, table, mark = (
        (_SUPERSCRIPT, SUPERSCRIPTS, "^") if name == "sup" else (_SUBSCRIPT, SUBSCRIPTS, "_")
    )
    if pattern.fullmatch(text):
        return text.translate(table)
    return f"{mark}{{{text}}}" if text else ""


def formula(element: etree._Element) -> str:
    """TeX without its preamble where there is TeX, else MathML written on one line."""
    for node in element.iter():
        if name_of(node) == "tex-math":
            tex = "".join(str(text) for text in node.itertext())
            body = re.search(r"\\begin\{document\}(.*?)\\end\{document\}", tex, re.DOTALL)
            return " ".join((body[1] if body else tex).split())
    for node in element.iter():
        if name_of(node) == "math":
            return "".join(_math(child) for child in node)
    return " ".join("".join(_pieces(element)).split())


def _math(node: etree._Element) -> str:
    parts = [_math(child) for child in node]
    match name_of(node), parts:
        case "mfrac", [top, bottom]:
            return f"({top})/({bottom})"
        case "msup", [base, power]:
            return f"{base}^{{{power}}}"
        case "msub", [base, index]:
            return f"{base}_{{{index}}}"
        case "msubsup", [base, index, power]:
            return f"{base}_{{{index}}}^{{{power}}}"
        case "msqrt", _:
            return f"√({''.join(parts)})"
        case "annotation" | "annotation-xml", _:
            return ""
        case "mtext" | "mo", []:
            return f" {(node.text or '').strip()} " if (node.text or "").strip() else " "
    return (node.text or "").strip() + "".join(parts)


def blocks(element: etree._Element, depth: int = 2) -> Iterator[str]:
    """Paragraphs, headings, lists and tables of an element as markdown blocks, in order.

    Args:
        element: a body, section or other container.
        depth: heading level of its sections.
    """
    loose = [element.text or ""]
    for child in element:
        name = name_of(child)
        if _is_block(child):
            yield from _paragraph(loose)
            loose = []
            yield from _block(child, name, depth)
        else:
            loose.append(_inline_child(child))
        loose.append(child.tail or "")
    yield from _paragraph(loose)


def _paragraph(pieces: list[str]) -> Iterator[str]:
    text = " ".join("".join(pieces).split())
    if text:
        yield text


_CONTAINERS = frozenset(
    word
    for line in (
        "div main article body header footer center boxed-text statement note example exercise",
        "problem solution content fieldset dl details summary title hr fig-group table-wrap-group",
        "p-group",
    )
    for word in line.split()
)
_BLOCKS = SECTIONS | PARAGRAPHS | LISTS | TABLES | FIGURES | HEADINGS.keys() | _CONTAINERS | {"disp-formula"}


def _is_block(element: etree._Element) -> bool:
    name = name_of(element)
    return name in _BLOCKS or (name in SKIPPED and name != "label")


def _block(element: etree._Element, name: str, depth: int) -> Iterator[str]:
    if name in SKIPPED or name == "hr":
        return
    if name in HEADINGS:
        yield from _prefixed("#" * HEADINGS[name], inline(element))
    elif name == "title":
        yield from _prefixed("#" * min(depth, 6), inline(element))
    elif name in TABLES:
        yield from _table_blocks(element)
    elif name in FIGURES:
        yield from _captioned(element, "Figure")
    elif name in LISTS:
        yield "\n".join(_items(element, 0))
    elif name == "disp-formula":
        yield from _prefixed("", formula(element))
    else:
        yield from blocks(element, depth + (name in SECTIONS and _has_title(element)))


def _has_title(element: etree._Element) -> bool:
    return any(name_of(child) == "title" for child in element)


def _prefixed(prefix: str, text: str) -> Iterator[str]:
    if text:
        yield f"{prefix} {text}".strip()


def _items(element: etree._Element, indent: int) -> Iterator[str]:
    for child in element:
        if name_of(child) not in ("list-item", "li", "item", "def-item"):
            continue
        nested = [node for node in child if name_of(node) in LISTS]
        lines = [
            text
            for text in blocks(_without(child, nested))
            if text
        ]  # fmt: skip
        yield " " * indent + "- " + " ".join(lines)
        for node in nested:
            yield from _items(node, indent + 2)


def _without(element: etree._Element, children: list[etree._Element]) -> etree._Element:
    import copy

    positions = {list(element).index(child) for child in children}
    clone = copy.deepcopy(element)
    for position in sorted(positions, reverse=True):
        tail = clone[position].tail or ""
        if position:
            clone[position - 1].tail = (clone[position - 1].tail or "") + tail
        else:
            clone.text = (clone.text or "") + tail
        del clone[position]
    return clone


def _captioned(element: etree._Element, kind: str) -> Iterator[str]:
    label = next((inline(node) for node in element.iter() if name_of(node) == "label"), kind)
    texts = [inline(node) for node in element.iter() if name_of(node) in ("caption", "figcaption")]
    yield from _prefixed(f"**{label.rstrip('.')}.**", " ".join(filter(None, texts))) if any(texts) else ()


def _table_blocks(element: etree._Element) -> Iterator[str]:
    yield from _captioned(element, "Table")
    tables = [element] if name_of(element) == "table" else [t for t in element if name_of(t) == "table"]
    for table in tables or [node for node in element.iter() if name_of(node) == "table"]:
        rows = table_rows(table)
        if rows:
            yield as_markdown_table(rows)
    for node in element.iter():
        if name_of(node) in ("table-wrap-foot",):
            yield from blocks(_feet(node))


def _feet(node: etree._Element) -> etree._Element:
    # Footnote labels are what the cells refer to: they belong in front of their notes.
    for label in [child for child in node.iter() if name_of(child) == "label"]:
        label.tag = "span"
    return node


def table_rows(table: etree._Element) -> list[list[str]]:
    """Cells of a table as a full grid: a cell that spans rows or columns is repeated in each."""
    grid: dict[tuple[int, int], str] = {}
    width = 0
    rows = [node for node in table.iter() if name_of(node) in ("tr", "row")]
    for y, row in enumerate(rows):
        x = 0
        for cell in row:
            if name_of(cell) not in ("td", "th", "entry"):
                continue
            while (y, x) in grid:
                x += 1
            text = inline(cell)
            across, down = _span(cell, "colspan", 1), _span(cell, "rowspan", _span(cell, "morerows", 0) + 1)
            for dy in range(min(down, len(rows) - y)):
                for dx in range(across):
                    grid[y + dy, x + dx] = text
            x += across
            width = max(width, x)
    return [[grid.get((y, x), "") for x in range(width)] for y in range(len(rows))] if width else []


def _span(cell: etree._Element, attribute: str, default: int) -> int:
    value = cell.get(attribute, "")
    return min(int(value), 1000) if value.isdigit() and int(value) > 0 else default


def as_markdown_table(rows: list[list[str]]) -> str:
    """A markdown table; the first row is its head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)
