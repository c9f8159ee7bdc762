"""Where a text names an option: each name becomes one character, so that rules can be written about names.

An option is named by its letter or by its text, and either must stand alone. Letters inside words, the
article `A` and the genus in `C. difficile` name nothing, nor does the label in `no significant difference`.
Letter and text together (`B. Adrenaline`) are one name; where they disagree, the name is `TORN`.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from evaluation.questions.base import LETTERS

LETTER = "[\ue000-\ue009\ue020]"
"""An option named by its letter."""
WORDS = "[\ue010-\ue019]"
"""An option named by its text."""
NAME = "[\ue000-\ue020]"
"""An option named at all."""
TORN = "\ue020"
"""A name of no option: a letter that none has, or a letter beside the text of another option."""
LABEL_LENGTH = 5
"""Characters of a label, such as yes and maybe; a label is a common word, so more is asked of it."""

_THINKING = re.compile(r"\A.*</think>|<think>.*", re.DOTALL | re.IGNORECASE)
_NEXT_QUESTION = re.compile(r"\n[\s#*]*question\b[ \d]*[:.\n].*", re.DOTALL | re.IGNORECASE)
_QUOTES = str.maketrans(dict.fromkeys("“”«»„‟〝〞「」『』", '"') | dict.fromkeys("’‘‚‛‹›", "'"))
_MARKUP = (
    (re.compile("[\0\ue000-\uf8ff]"), " "),
    (re.compile(r"\\boxed\b|<\w*answer\w*>|^#### ?(?=\S+\s*$)", re.MULTILINE | re.IGNORECASE), "\nanswer: "),
    (re.compile(r"</\w+>|<\|\w+\|>"), "\n"),
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"<[a-z]\w*>|[*`$]|(?<!\w)_+|_+(?!\w)"), ""),
    (re.compile(r"[^\S\n]+"), " "),
    (re.compile(r"\s*\n\s*"), "\n"),
)
_SMALL = re.compile(
    r"((?:\A|[:=]|\b(?:is|option|answer|choice)\b)\s*[\"'(\[{]*)"
    r"([b-j]|(?<!is )a|a(?=[)\]}.]))(?=[\"']*(?:[)\]}]|\.(?!\w)|\s*\Z))",
    re.IGNORECASE,
)
_FUNCTION_WORDS = (
    r"(?:because|since|as|so|due|given|while|although|but|and|or|not|it|its|this|that|these|those|there|the|they|"
    r"he|she|his|her|we|you|my|which|who|hence|thus|therefore|both|all|in|for|with|on|at|if|when|is|was|are)\b"
)
_GENUS = re.compile(rf"\.\s?(?!{_FUNCTION_WORDS})[a-z]")
_LISTED_BEFORE = re.compile(r"\b[A-J][)\]]?,? (?:and|or|nor) [(\[\"']?\Z")
_CLOSED = r"[\"')\]}]*(?!['-]\w)"
_END = r"[^\S\n]*(?:[^\w\s]|\n|\Z)|\s+(?:and|or|because|since|as)\b"
_ENDS = re.compile(rf"{_CLOSED}(?:{_END})")
_OFF = re.compile(
    rf"{_CLOSED}(?:{_END}|\s+(?:nor|but|is|are|was|were|isn't|aren't|wasn't|weren't|seems?|appears?|does|do|doesn't|"
    r"don't|can|can't|cannot|could|would|should|will|won't|must|has|have|than|instead|rather|unlike)\b)"
)
"""What sets a name off from what follows it: its phrase ends, or it is the subject of a sentence."""


def named(text: str, options: Sequence[str]) -> str:
    """A text in plain form, up to a next question, with every name of an option as one character."""
    text = _NEXT_QUESTION.sub("", _plain(_THINKING.sub(" ", text)))
    text = _SMALL.sub(lambda match: match[1] + match[2].upper(), text)
    texts = tuple(plain_option(option) for option in options)
    return _pattern(texts).sub(lambda match: _name(match, texts), text)


def plain_option(option: str) -> str:
    """An option's text as it is looked for."""
    return " ".join(_plain(option).split()).rstrip(".").lower()


def options_of(names: str) -> set[int | None]:
    """The options that are named in a marked text; None stands for a torn name."""
    found = re.findall(NAME, names)
    return {None if name == TORN else (ord(name) - 0xE000) % 16 for name in found}


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES)
    for markup, plain in _MARKUP:
        text = markup.sub(plain, text)
    return text.strip()


@lru_cache(maxsize=64)
def _pattern(texts: tuple[str, ...]) -> "re.Pattern[str]":
    """What may be a name: the text of an option, or a letter with or without a text behind it."""
    found = sorted({text for text in texts if text and not _is_letter(text)}, key=len, reverse=True)
    words = "|".join(re.escape(text).replace(r"\ ", r"\s+") for text in found) or r"(?!)"
    words = rf"(?i:{words})(?!\w|-\w|[.,]\d|%)"
    return re.compile(
        rf"(?<!\w)(?<!\w-)(?<!\d[.,])(?:(?P<words>{words})|"
        r"(?:(?P<sure>(?i:options?|choices?|answer|letter) ))?"
        r"(?P<open>[\"'(\[{]{0,4})(?P<letter>(?<!\w)[A-J](?!\w))(?P<close>[\"')\]}]{0,4})"
        rf"(?:(?P<between>(?:[.:),]|\s?[-–](?=\s))?\s?[(\"']?)(?P<own>{words}))?)"
    )


def _name(match: "re.Match[str]", texts: Sequence[str]) -> str:
    """The characters that stand for a name; what was matched where it is none."""
    off = bool(_OFF.match(match.string, match.end()))
    if match["words"]:
        return _words(match["words"], texts, off)
    letter = LETTERS.index(match["letter"])
    name = _letter(letter, texts)
    if match["own"] and (match["between"].strip() or match["close"] or off):
        if name != TORN and texts[letter] == texts[_index_of(match["own"], texts)]:
            return f"{name})"
        if _ENDS.match(match.string, match.end()):
            return f"{TORN})"
    after = match["between"] + _words(match["own"], texts, off) if match["own"] else ""
    if _stands_alone(match):
        return name + (")" if match["open"] else match["close"]) + after
    return match[0].removesuffix((match["between"] or "") + (match["own"] or "")) + after


def _stands_alone(match: "re.Match[str]") -> bool:
    """Whether a letter is no article, no pronoun and no genus."""
    end = match.end("letter")
    if match["sure"] and match["sure"].lower().startswith(("option", "choice")):
        return True
    if match["letter"] == "I" and re.match(
        r"[ ,]+(?!(?:is|are|and|or|but|because|since)\b)\w", match.string[end:]
    ):
        return False
    if _LISTED_BEFORE.search(match.string, max(0, match.start("letter") - 10), match.start("letter")):
        return True
    if match["own"] and match["between"].strip(" \"'"):
        return True
    return bool(_OFF.match(match.string, end)) and not _GENUS.match(match.string, end)


def _index_of(words: str, texts: Sequence[str]) -> int:
    words = " ".join(words.split())
    return next(index for index, text in enumerate(texts) if re.fullmatch(f"(?i:{re.escape(text)})", words))


def _words(words: str, texts: Sequence[str], off: bool) -> str:
    """The name of an option by its text; a label that is not set off is none."""
    index = _index_of(words, texts)
    if len(words) <= LABEL_LENGTH and not off:
        return words
    return TORN if texts.count(texts[index]) > 1 else chr(0xE010 + index)


def _letter(index: int, texts: Sequence[str]) -> str:
    """The name of an option by its letter, unless none has it, or another one's text is that letter."""
    others = [text for place, text in enumerate(texts) if place != index]
    return TORN if index >= len(texts) or LETTERS[index].lower() in others else chr(0xE000 + index)


def _is_letter(text: str) -> bool:
    return len(text) == 1 and text.upper() in LETTERS
