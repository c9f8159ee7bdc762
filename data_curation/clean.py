"""Text normalisation that repairs characters and white space and never removes a visible one."""

import re
import unicodedata

import ftfy

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
_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n{3,}")
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\ufeff"))


def normalise(text: str) -> str:
    """NFC, mojibake repaired, control and invisible characters removed, runs of white space folded.

    Indentation of lines is kept, since markdown lists depend on it.
    """
    text = unicodedata.normalize("NFC", ftfy.fix_text(text, _CONFIG)).translate(_INVISIBLE)
    lines = []
    for line in text.split("\n"):
        body = line.lstrip(" ")
        lines.append((" " * (len(line) - len(body)) + _SPACES.sub(" ", body)).rstrip())
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()
