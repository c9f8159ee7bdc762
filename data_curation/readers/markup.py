"""JATS, HTML and CNXML as markdown: one walk over the tree, with what each element name means."""

import re
from collections.abc import Iterator

from lxml import etree

from data_curation.readers.citations import Citations
from data_curation.readers.maths import NO_FORMULA, formula, lowered, name_of, raised
from data_curation.readers.tables import markdown_table


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


SKIPPED = _words(
    "script style noscript nav form button select iframe svg aside template head ref-list journal-meta",
    "contrib-group aff author-notes permissions pub-date history related-article self-uri counts object-id",
    "custom-meta-group media graphic inline-graphic ack fn-group metadata colgroup col colspec",
)
"""Elements whose text is not part of what a document says."""
SECTIONS = _words("sec section abstract app glossary")
LISTS = _words("list ul ol def-list")
TABLES = _words("table-wrap table informaltable")
FIGURES = _words("fig figure supplementary-material")
FORMULAE = _words("disp-formula equation display-math")
_INLINE_FORMULAE = _words("inline-formula disp-formula math tex-math equation")
HEADINGS = {f"h{level}": level for level in range(1, 7)}
_CONTAINERS = _words(
    "p para dt dd attrib disp-quote blockquote quote pre preformat verse-line verse-group speech caption",
    "figcaption div main article body header footer center boxed-text statement note example exercise rule",
    "problem solution content fieldset dl details summary title hr fig-group table-wrap-group p-group proof",
    "floats-group app-group fn address subfigure definition disp-formula-group",
)
_BLOCKS = SECTIONS | LISTS | TABLES | FIGURES | FORMULAE | HEADINGS.keys() | _CONTAINERS
_APART = _BLOCKS | _words("li item list-item def-item td th entry tr row break br newline label")
"""Elements whose text never runs into the text beside them."""
_ITEMS = _words("list-item li item def-item")
_CAPTIONS = _words("caption figcaption title")
_NO_CONTENT = re.compile(
    r"\(?(?:click here for (?:additional data )?file\.?|[\d.,]+ ?[kmg]b[^)]*)\)?\.?", re.I
)


class Markup:
    """Turns elements into markdown.

    Args:
        citations: how references are written.
    """

    def __init__(self, citations: Citations | None = None) -> None:
        self.citations = citations or Citations()

    def inline(self, element: etree._Element) -> str:
        """Text of an element in reading order on one line; formulae, citations, powers stay in place."""
        return self._line(self._pieces(element))

    def _line(self, pieces: list[str]) -> str:
        return self.citations.finish(" ".join("".join(pieces).split()))

    def _pieces(self, element: etree._Element) -> list[str]:
        pieces = [element.text or ""]
        for child in element:
            pieces += self._child(child, name_of(child))
            pieces.append(child.tail or "")
        return pieces

    def _child(self, child: etree._Element, name: str) -> list[str]:
        if name in SKIPPED or not name:
            return []
        if name in ("sup", "sub"):
            return [self._script(child, name)]
        if name in ("xref", "link"):
            return [self._reference(child)]
        if name in _INLINE_FORMULAE:
            return [self._formula(child)]
        if name in ("fn", "footnote"):
            return [f" ({self.inline(child)})"]
        pieces = self._pieces(child)
        return [" ", *pieces, " "] if name in _APART else pieces

    def _script(self, element: etree._Element, name: str) -> str:
        if name == "sup" and any(_is_citation(child) for child in element):
            return f" [{''.join(self._pieces(element)).strip()}]"
        text = self.inline(element)
        return raised(text) if name == "sup" else lowered(text)

    def _reference(self, element: etree._Element) -> str:
        text = "".join(self._pieces(element))
        kind, target = element.get("ref-type"), element.get("rid", "")
        if kind == "bibr":
            inner = element[0] if len(element) == 1 and not (element.text or "").strip() else None
            if inner is not None and name_of(inner) == "sup":
                return f" [{self.citations.work(target, self.inline(inner))}]"
            return self.citations.work(target, text)
        if kind in ("table-fn", "fn") and len(text.strip()) < 3 and not len(element):
            return raised(text.strip())  # some publishers leave the raising to the page's style
        return self.citations.float(target, text) if kind in ("fig", "table") else text

    def _formula(self, element: etree._Element) -> str:
        text = formula(element)
        if text == NO_FORMULA and name_of(element) != "math":
            text = self._line(self._pieces_without_label(element)) or NO_FORMULA
        if text == NO_FORMULA:
            return text
        label = next((self.inline(child) for child in element if name_of(child) == "label"), "")
        return " ".join(filter(None, [self.citations.wrap("formula", text), label]))

    def _pieces_without_label(self, element: etree._Element) -> list[str]:
        pieces = [element.text or ""]
        for child in element:
            name = name_of(child)
            pieces += self._child(child, name) if name != "label" else []
            pieces.append(child.tail or "")
        return pieces

    def blocks(self, element: etree._Element, depth: int = 1) -> Iterator[str]:
        """Paragraphs, headings, lists and tables of an element as markdown blocks, in order.

        Args:
            element: a body, section or other container.
            depth: heading level of its own title; its sections are one level below.
        """
        loose = [element.text or ""]
        for child in element:
            name = name_of(child)
            if name == "label" and name_of(element) == "sec":
                pass  # the number of a section
            elif name in _BLOCKS:
                yield from self._paragraph(loose)
                loose = []
                yield from self._block(child, name, depth)
            else:
                loose += self._child(child, name)
            loose.append(child.tail or "")
        yield from self._paragraph(loose)

    def section(self, element: etree._Element) -> Iterator[str]:
        """One element as `blocks` gives it where it stands inside another."""
        yield from self._block(element, name_of(element), 1)

    def _paragraph(self, pieces: list[str]) -> Iterator[str]:
        text = self._line(pieces)
        if text:
            yield text

    def _block(self, element: etree._Element, name: str, depth: int) -> Iterator[str]:
        if name in HEADINGS:
            yield from _prefixed("#" * HEADINGS[name], self.inline(element))
        elif name == "title":
            yield from _prefixed("#" * min(depth, 6), self.inline(element))
        elif name in TABLES:
            yield from self._table(element)
        elif name in FIGURES:
            text = self._caption(element, "Figure" if name.startswith("fig") else "File")
            yield from filter(None, [self.citations.wrap("fig", text)])
        elif name in LISTS:
            yield from filter(None, [*self._list_title(element), "\n".join(self._items(element))])
        elif name in FORMULAE:
            yield from filter(None, [self._formula(element)])
        elif name == "fn":
            yield from self._paragraph([self._joined(element, " ")])
        elif name == "definition":
            yield from _prefixed("-", self._joined(element, ": "))
        else:
            yield from self.blocks(element, depth + (name in SECTIONS and _has_title(element)))

    def _joined(self, element: etree._Element, between: str) -> str:
        """A footnote or definition on one line, what it is called in front."""
        parts = [self.inline(child) for child in element] if not (element.text or "").strip() else []
        return between.join(filter(None, parts)) or self.inline(element)

    def _list_title(self, element: etree._Element) -> Iterator[str]:
        for child in element:
            if name_of(child) in ("title", "label"):
                yield from _prefixed("", self.inline(child))

    def _items(self, element: etree._Element) -> Iterator[str]:
        ordered = name_of(element) == "ol" or element.get("list-type") in ("order", "enumerated")
        items = [child for child in element if name_of(child) in _ITEMS]
        for number, item in enumerate(items, start=1):
            marker = f"{number}." if ordered else "-"
            if name_of(item) == "def-item":
                yield f"{marker} {self._joined(item, ': ')}"
                continue
            lines = [marker]
            for block in self.blocks(_unlabelled(item)):
                if "\n" in block or block.startswith(("- ", "1. ")):
                    lines += ["  " + line for line in block.split("\n")]
                else:
                    lines[-1] += f" {block}"
            if len(lines) > 1 or lines[0] != marker:
                yield "\n".join(lines)

    def _caption(self, element: etree._Element, kind: str) -> str:
        """`**Figure 1.** Title. Text`; empty where there is no text."""
        label = next((self.inline(node) for node in element if name_of(node) == "label"), "")
        parts: list[str] = []
        for child in element:
            if name_of(child) in _CAPTIONS:
                blocks = self.blocks(child, 0) if len(child) else [self.inline(child)]
                parts += [part for part in blocks if part and not _NO_CONTENT.fullmatch(part)]
            elif name_of(child) in FIGURES or name_of(child) == "subfigure":
                parts += filter(None, [self._caption(child, kind)])
        if not parts:
            return ""
        # A title without a full stop would run into the text after it.
        closed = [part if part[-1] in ".:;?!" else f"{part}." for part in parts[:-1]]
        return f"**{(label or kind).rstrip('.:')}.** {' '.join([*closed, parts[-1]])}"

    def _table(self, element: etree._Element) -> Iterator[str]:
        parts = [self._caption(element, "Table")]
        for table in _tables_in(element):
            parts.append(markdown_table(table, self.inline))
        for node in element:
            if name_of(node) == "table-wrap-foot":
                parts += self.blocks(node)
        text = "\n\n".join(filter(None, parts))
        yield from filter(None, [self.citations.wrap("table", text)])


def _prefixed(prefix: str, text: str) -> Iterator[str]:
    if text:
        yield f"{prefix} {text}".strip()


def _is_citation(element: etree._Element) -> bool:
    return name_of(element) == "xref" and element.get("ref-type") == "bibr"


def _has_title(element: etree._Element) -> bool:
    return any(name_of(child) == "title" for child in element)


def _unlabelled(item: etree._Element) -> etree._Element:
    """A list item without the label that its marker stands for."""
    for child in item:
        if name_of(child) == "label":
            item.remove(child)
            break
    return item


def _tables_in(element: etree._Element) -> list[etree._Element]:
    """The table itself, or the first one among its alternatives, or all that it wraps."""
    if name_of(element) == "table":
        return [element]
    return [node for node in element.iter("{*}table") if not _inside_table(node, element)]


def _inside_table(node: etree._Element, top: etree._Element) -> bool:
    for ancestor in node.iterancestors():
        if ancestor is top:
            return False
        if name_of(ancestor) == "table":
            return True
    return False
