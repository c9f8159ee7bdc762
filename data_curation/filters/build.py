"""From the configuration to the rules that apply."""

import importlib.util

from data_curation.filters.base import DocumentFilter
from data_curation.filters.classifier import MedicalText, load_classifier
from data_curation.filters.language import Language
from data_curation.filters.quality import QUALITY_RULES, Quality
from data_curation.filters.retracted import Retracted
from data_curation.filters.rules import (
    AllowedLicense,
    LetterFraction,
    MinimumCharacters,
    MinimumWords,
    RepeatedLines,
)
from meditron.config import FilterConfig
from meditron.config.check import suggest
from meditron.errors import ConfigError, EnvironmentMissingError


def build_filters(config: FilterConfig) -> list[DocumentFilter]:
    """The rules in the order they are asked, the cheapest first; the first that refuses gives the reason.

    Raises:
        ConfigError: a bound is for no rule.
        InputError: the classifier cannot be read.
        EnvironmentMissingError: a rule needs a package that is not here.
    """
    rules: list[DocumentFilter] = [MinimumCharacters(config.min_characters)]
    if config.retracted == "drop":
        rules.append(Retracted())
    if config.allowed_licenses:
        rules.append(AllowedLicense(tuple(config.allowed_licenses)))
    if config.min_words:
        rules.append(MinimumWords(config.min_words))
    if config.min_letter_fraction:
        rules.append(LetterFraction(config.min_letter_fraction))
    if config.max_repeated_line_fraction < 1:
        rules.append(RepeatedLines(config.max_repeated_line_fraction))
    if config.quality != "off":
        rules.append(Quality.of(config.quality, _bounds(config)))
    if config.languages:
        if importlib.util.find_spec("py3langid") is None:
            raise EnvironmentMissingError(
                "curate.filters.languages: needs py3langid; install it with: pip install py3langid"
            )
        rules.append(Language(tuple(config.languages), config.language_confidence))
    if config.classifier is not None:
        load_classifier(config.classifier)
        rules.append(MedicalText(config.classifier, config.classifier_threshold))
    return rules


def watched_filters(config: FilterConfig) -> list[DocumentFilter]:
    """Rules that are only counted: beside the bounds for medical text the published ones."""
    return [Quality.of("general", {})] if config.quality == "medical" else []


def _bounds(config: FilterConfig) -> dict[str, float]:
    for name in config.quality_bounds:
        if name not in QUALITY_RULES:
            raise ConfigError(
                f"curate.filters.quality_bounds: no rule is called {name!r}{suggest(name, QUALITY_RULES)}"
            )
    return config.quality_bounds
