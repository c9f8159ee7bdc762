"""Text normalisation that repairs characters and white space and never removes a visible one."""

import re
import unicodedata

import ftfy
from ftfy.badness import is_bad

_CONFIG = ftfy.TextFixerConfig(
    # Repair of mis-decoded UTF-8 only: nothing that could fold what clinicians write, such as
    # "<", quotes, ligatures, full-width forms or superscripts.
    unescape_html=False,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    remove_terminal_escapes=True,
    normalization="NFC",
)
# Mis-decoded UTF-8 shows as two characters beyond ASCII side by side, or as one of these before a space.
_SUSPECT = re.compile("[^\\0-\x7f]{2}|[ÃÂâàÅ]")
_LINE_BREAKS = ("\r\n", "\r", "\v", "\f", "\u0085", "\u2028", "\u2029")
_BLANK_LINES = re.compile(r"\n{3,}")
_INVISIBLE = dict.fromkeys(
    [*map(ord, "\u00ad\u200b\u2060\ufeff\ufffc\x7f"), *(code for code in range(32) if code not in (9, 10))]
)


def normalise(text: str) -> str:
    """NFC, mojibake repaired, control and invisible characters removed, runs of white space folded.

    Indentation of lines is kept, since markdown lists depend on it.
    """
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    for line_break in _LINE_BREAKS:
        text = text.replace(line_break, "\n")
    lines = "\n".join(map(_normalise_line, text.split("\n")))
    return _BLANK_LINES.sub("\n\n", lines).strip()


def _normalise_line(line: str) -> str:
    if not line.isascii() and _SUSPECT.search(line) and is_bad(line):
        line = ftfy.fix_text(line, _CONFIG)
    if not line.isprintable():
        line = line.translate(_INVISIBLE)
    words = " ".join(line.split())
    return " " * (len(line) - len(line.lstrip(" "))) + words if line[:1] == " " and words else words
