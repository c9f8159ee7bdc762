"""What jsonargparse says about a value, in the words of a recipe."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Given = Sequence[tuple[str, Any]]
"""Dotted path and value of everything that was given, what overrides others last."""
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "dict": "a mapping",
    "NoneType": "null",
}
_ENTRY = re.compile(r'"(?P<outer>[\w.]+)": Problem with given class_path \'[\w.]+\': (?P<what>.*)')
_KEY = re.compile(r'(?:Parser key )?"(?P<key>[\w.]+)": (?P<what>.*)')
_MISSING = re.compile(r"the following arguments are required: (?P<key>\w+)")
_ONE = re.compile(r"Expected an? (?P<types>.+?)\. Got value: (?P<value>.*)")
_SEVERAL = re.compile(
    r"Does not validate against any of the Union subtypes Subtypes: \[(?P<types>.+)\] Errors: .*"
    r"Given value: (?P<value>.*)"
)
_MAPPING = re.compile(r"Not a valid subclass of \w+\. Got value: (?P<value>.*?) Subclass types expect.*")


def flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - any YAML value
    """Dotted path and value of all parts of a mapping, the inner ones too."""
    for key, value in content.items() if isinstance(content, Mapping) else ():
        yield f"{prefix}{key}", value
        yield from flat(value, f"{prefix}{key}.")


def in_words(text: str, given: Given) -> str:
    """One sentence: which setting, what it should be, what it is.

    jsonargparse does not name the entry of a mapping (`evaluate.tasks.medqa`) that its complaint is about;
    it is found by the value.
    """
    sentence = " ".join(text.split()).replace('Parser key "', '"')
    entry = _ENTRY.fullmatch(sentence)
    if entry is None:
        key = _KEY.fullmatch(sentence)
        return sentence if key is None else f'"{key["key"]}": {_expected(key["what"])[0]}'
    outer, what = entry["outer"], entry["what"]
    if missing := _MISSING.fullmatch(what):
        entries = (item for path, value in reversed(given) if path == outer for item in flat(value))
        names = (name for name, item in entries if isinstance(item, Mapping) and missing["key"] not in item)
        return f'"{outer}.{next(names, "<name>")}": lacks {missing["key"]}'
    key = _KEY.fullmatch(what)
    if key is None:
        return f'"{outer}": {what}'
    name, (said, value) = key["key"], _expected(key["what"])
    paths = (
        path
        for path, item in reversed(given)
        if path.startswith(f"{outer}.") and path.endswith(f".{name}") and _holds(item, value)
    )
    path = next(paths, f"{outer}.<name>.{name}")
    return f'"{path}": {said}'


def _holds(item: Any, value: str) -> bool:  # noqa: ANN401 - any YAML value
    """Whether a setting has the value that was complained about, or one in its list is it."""
    inner = item if isinstance(item, list) else []
    return value in (str(item), *map(str, inner))


def _expected(what: str) -> tuple[str, str]:
    """A complaint about a value in words, and the value."""
    if found := _MAPPING.fullmatch(what):
        return f"Expected {TYPES['dict']}, got {found['value']}", found["value"]
    found = _ONE.fullmatch(what) or _SEVERAL.fullmatch(what)
    if found is None:
        return what, ""
    return f"Expected {_types(found['types'])}, got {found['value']}", found["value"]


def _types(text: str) -> str:
    """`<class 'int'>, list[str], <class 'NoneType'>` -> `a whole number, a list or null`."""
    found = re.findall(r"typing\.Literal\[(.*?)\]|(?:<class ')?([\w.]+)(?:\[[^\]]*\])?(?:'>)?", text)
    names = [f"one of {choices}" if choices else TYPES.get(name, name) for choices, name in found]
    names = list(dict.fromkeys(names))
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
