"""Which names of persons in literature are those of patients, by their form and the words around them.

A model of names cannot tell the woman of a case report from whom a disease is called after or who wrote
what is cited, and literature is full of the latter. So where a name may be one of those, it is left alone.
"""

import re

_SHOWN = 80
"""Characters behind a name that are looked at."""
_BEFORE = 200
"""Characters before it: more than a citation of twelve words has."""
_HEADS = (
    "anaemia|analysis|anemia|angle|award|bacillus|body|bodies|canal|carcinoma|catheter|cells?|cent(?:er|re)|chart|chorea"
    "|classification|clinic|coefficient|cohort|college|correction|criteri(?:a|on)|curves?|diagram|diseases?|disorder"
    "|distribution|duct|effect|equation|estimator|fellowship|forceps|formula|foundation|fracture|gland|grading"
    "|hospital|hypothesis|index|inequality|institute|inventory|law|lecture|lesions?|library|ligament|lymphoma"
    "|maneuver|manoeuvre|medal|method|model|nodes?|operation|palsy|paradox|phenomenon|plot|position|principle|prize"
    "|procedure|purpura|questionnaire|reaction|reflex|regression|rule|sarcoma|scale|school|score|sign|society"
    "|staging|stain|statistic|study|syndromes?|system|technique|test|theorem|theory|thyroiditis|triad|trial"
    "|triangle|trust|tube|tumou?rs?|university|virus"
)
"""What is called after persons; words that are verbs behind a patient (tests, signs) are not among it."""
_CAPITAL = r"[^\W\d_a-z][\w.’'-]*"
_IS_HEAD = re.compile(rf"(?:{_HEADS})\b", re.IGNORECASE)
_THING = re.compile(rf"(?: (?:and|&) {_CAPITAL})?(?: {_CAPITAL}){{0,4}} (?:[\w-]{{1,40}}-)?(?i:{_HEADS})\b")
_JOINED_AFTER = re.compile(r"['’](?:s\b|\W)|[-–/]\w| &")
_JOINED_BEFORE = re.compile(r"(?:\w[-–/]|& )$")
_DEGREE = r"M\.?D|M\.?B|Ph\.?D|DrPH|MPH|MBBS|MSc|BSc|RN|DO|FRC[A-Z]+"
_AUTHOR_AFTER = re.compile(
    r",? ?(?:et al\b|and (?:colleagues|co-?workers|associates)\b|[(\[]?(?:1[89]|20)\d\d\b|\[\d"
    rf"|(?:{_DEGREE})\b)"
)
_AUTHOR_BEFORE = re.compile(r"\b(?:Drs?|Prof|Professors?|Sir|Dame|Lord|Saint|St)\.? $")
_CITATION, _CITATION_END = "[bib_ref]", "[/bib_ref]"


def may_be_patient(text: str, start: int, end: int) -> bool:
    """Whether a name in a text is a full one, and nothing says that it is an eponym's or an author's.

    Args:
        text: where it is.
        start: its first character.
        end: one past its last.
    """
    before = text[max(0, start - _BEFORE) : start].replace("\n", " ")
    after = text[end : end + _SHOWN].replace("\n", " ")
    is_thing = _THING.match(after) or _JOINED_AFTER.match(after) or _JOINED_BEFORE.search(before)
    is_author = (
        _AUTHOR_AFTER.match(after)
        or _AUTHOR_BEFORE.search(before)
        or before.rfind(_CITATION) > before.rfind(_CITATION_END)
    )
    return is_full_name(text[start:end]) and not is_thing and not is_author


def is_full_name(name: str) -> bool:
    """Whether it is a family name after a given one or its initials, as in "Mary J. Smith" or "Smith, Mary".

    "Crohn" is not, nor are "Smith J" and "Mann-Whitney U", as literature writes authors and statistics,
    nor an abbreviation, nor what ends as things do ("Hodgkin Lymphoma").
    """
    parts = [part for part in name.replace(",", " ").split() if part[0].isupper()]
    if len(parts) < 2 or any(letter.isdigit() for letter in name):
        return False
    last = parts[-1]
    is_word = len(last.rstrip(".")) > 1 and not last.isupper()
    return is_word and not last.endswith(("'s", "’s")) and not _IS_HEAD.fullmatch(last)
