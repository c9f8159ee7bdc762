"""Formulae and raised or lowered characters as plain text."""

import re
from functools import lru_cache

from lxml import etree

SUPERSCRIPTS = str.maketrans("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
SUBSCRIPTS = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
_RAISABLE = re.compile(r"[0-9+\-−=()n]+")
_LOWERABLE = re.compile(r"[0-9+\-−=()]+")
_RAISED_BY_NATURE = re.compile(r"(?:st|nd|rd|th|°|º|ª|®|™|[*†‡§¶#′″'\"]+|\[[^\]]*\])")
_PREAMBLE = re.compile(r"\\begin\{document\}(.*?)\\end\{document\}", re.DOTALL)
_INVISIBLE = dict.fromkeys(map(ord, "\u2061\u2062\u2063\u2064"))
_ACCENTS = {
    "^": "\u0302", "ˆ": "\u0302", "\u0302": "\u0302", "~": "\u0303", "˜": "\u0303", "\u0303": "\u0303",
    "¯": "\u0304", "‾": "\u0304", "―": "\u0304", "\u0304": "\u0304", "\u0305": "\u0304", "_": "\u0304",
    "→": "\u20d7", "⃗": "\u20d7", "˙": "\u0307", "\u0307": "\u0307", "¨": "\u0308",
}  # fmt: skip
_SPACED = frozenset("=<>≤≥≠≈≅∼±+−×÷→←↔⇒∈∪∩∝≡∧∨≪≫") | {"-", ":=", "&lt;"}
NO_FORMULA = "[formula]"
"""Stands where a formula is there as a picture only."""


def name_of(element: etree._Element) -> str:
    """Local name in lower case; empty for what is no element, such as an entity reference."""
    return _local(element.tag)


@lru_cache(maxsize=4096)
def _local(tag: object) -> str:
    return tag.rpartition("}")[2].lower() if isinstance(tag, str) else ""


def raised(text: str) -> str:
    """`2` -> `²`, `n+1` -> `ⁿ⁺¹`, `th` -> `th`, `ab` -> `^{ab}`."""
    if _RAISABLE.fullmatch(text):
        return text.translate(SUPERSCRIPTS)
    return text if not text or _RAISED_BY_NATURE.fullmatch(text) else f"^{{{text}}}"


def lowered(text: str) -> str:
    """`2` -> `₂`, `max` -> `_{max}`."""
    if _LOWERABLE.fullmatch(text):
        return text.translate(SUBSCRIPTS)
    return f"_{{{text}}}" if text else ""


def formula(element: etree._Element) -> str:
    """TeX without its preamble where there is TeX, else MathML on one line, else its text.

    Returns:
        `NO_FORMULA` for a picture without text.
    """
    text = ""
    for node in element.iter("{*}tex-math", "{*}math"):
        if name_of(node) == "tex-math":
            tex = "".join(str(piece) for piece in node.itertext())
            body = _PREAMBLE.search(tex)
            return " ".join((body[1] if body else tex).split())
        text = text or mathml(node)
    return text or NO_FORMULA


def mathml(node: etree._Element) -> str:
    """MathML on one line: fractions, powers, roots and rows written out."""
    return " ".join(_math(node).translate(_INVISIBLE).split())


def _math(node: etree._Element) -> str:
    name = name_of(node)
    if name in ("annotation", "annotation-xml", "maligngroup", "malignmark"):
        return ""
    parts = [_math(child) for child in node]
    if not parts:
        return _leaf(name, (node.text or "").strip())
    count, write = _WRITERS.get(name, (0, _joined))
    return write(node, parts) if count in (0, len(parts)) else "".join(parts)


def _leaf(name: str, text: str) -> str:
    if name == "mspace" or (name in ("mo", "mtext") and not text):
        return " "
    if (name == "mo" and text in _SPACED) or name == "mtext":
        return f" {text} "
    return f"{text} " if name == "mo" and text in (",", ";") else text


def _joined(_: etree._Element, parts: list[str]) -> str:
    return "".join(parts)


def _fraction(_: etree._Element, parts: list[str]) -> str:
    return "/".join(_grouped(part.strip()) for part in parts)


def _grouped(text: str) -> str:
    return text if len(text) == 1 or text.replace(".", "").isalnum() else f"({text})"


def _accented(_: etree._Element, parts: list[str]) -> str:
    base, over = (part.strip() for part in parts)
    if over not in _ACCENTS:
        return base + raised(over)
    return (base if len(base) == 1 else f"({base})") + _ACCENTS[over]


def _fenced(node: etree._Element, parts: list[str]) -> str:
    separator = node.get("separators", ",").strip()[:1]
    return node.get("open", "(") + f"{separator} ".join(parts) + node.get("close", ")")


_WRITERS = {
    "mfrac": (2, _fraction),
    "msup": (2, lambda _, p: p[0] + raised(p[1].strip())),
    "msub": (2, lambda _, p: p[0] + lowered(p[1].strip())),
    "munder": (2, lambda _, p: p[0].strip() + lowered(p[1].strip())),
    "msubsup": (3, lambda _, p: p[0] + lowered(p[1].strip()) + raised(p[2].strip())),
    "munderover": (3, lambda _, p: p[0].strip() + lowered(p[1].strip()) + raised(p[2].strip())),
    "mover": (2, _accented),
    "mroot": (2, lambda _, p: f"{raised(p[1])}√({p[0]})"),
    "msqrt": (0, lambda _, p: f"√({''.join(p)})"),
    "mtr": (0, lambda _, p: " ".join(p)),
    "mtable": (0, lambda _, p: "; ".join(row for row in p if row.strip())),
    "mfenced": (0, _fenced),
}
"""Element to the number of its parts (0: any) and how they are written."""
