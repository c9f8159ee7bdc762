"""From the configuration to the rules that apply."""

from data_curation.filters.base import DocumentFilter
from data_curation.filters.rules import (
    AllowedLicense,
    LetterFraction,
    MinimumCharacters,
    MinimumWords,
    RepeatedLines,
)
from meditron.config import FilterConfig


def build_filters(config: FilterConfig) -> list[DocumentFilter]:
    """The rules in the order they are asked, the cheapest first; the first that refuses gives the reason."""
    rules: list[DocumentFilter] = [MinimumCharacters(config.min_characters)]
    if config.allowed_licenses:
        rules.append(AllowedLicense(tuple(config.allowed_licenses)))
    if config.min_words:
        rules.append(MinimumWords(config.min_words))
    if config.min_letter_fraction:
        rules.append(LetterFraction(config.min_letter_fraction))
    if config.max_repeated_line_fraction < 1:
        rules.append(RepeatedLines(config.max_repeated_line_fraction))
    return rules
