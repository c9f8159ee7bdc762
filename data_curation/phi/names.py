"""Names of persons by a spaCy pipeline, run by presidio's analyzer with no recognizer but that of persons."""

import importlib.metadata
import importlib.util
import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_curation.phi.detect import Finding, find, in_order
from data_curation.phi.eponyms import may_be_patient
from meditron.errors import ConfigError, EnvironmentMissingError

if TYPE_CHECKING:
    from presidio_analyzer import BatchAnalyzerEngine

MAX_PIECE = 5000
"""Characters that the pipeline sees at once: more than a paragraph has, and far less than it would refuse."""
_PIECES_AT_ONCE = 32
_PERSON = "PERSON"
_PERSON_LABELS = frozenset(["PERSON", "PER", "PATIENT", "STAFF", "HCW"])
"""What pipelines call persons."""
_NEEDLESS = frozenset(
    ["tagger", "morphologizer", "parser", "senter", "attribute_ruler", "lemmatizer", "trainable_lemmatizer"]
)
"""Components that cost time and that recognizing names does not need."""


def find_with_names(text: str, model: str | None) -> list[Finding]:
    """What `find` finds and, where there is a model, the names that it finds."""
    return in_order([*find(text), *names_in(text, model)]) if model else find(text)


def names_in(text: str, model: str) -> list[Finding]:
    """Names in a text that may be a patient's, in order.

    Args:
        text: any length; the pipeline sees it paragraph by paragraph.
        model: the pipeline, a package's name or a folder.
    """
    analyzer = load_analyzer(model)
    pieces = list(_pieces(text))
    results = analyzer.analyze_iterator(
        [text[start:end] for start, end in pieces],
        language=analyzer.analyzer_engine.supported_languages[0],
        batch_size=_PIECES_AT_ONCE,
        entities=[_PERSON],
    )
    found = (
        (start + result.start, start + result.end)
        for (start, _), piece in zip(pieces, results, strict=True)
        for result in piece
    )
    return [Finding(start, end, "NAME") for start, end in sorted(found) if may_be_patient(text, start, end)]


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Paragraphs as (start, end), long ones cut at the end of a sentence or of a word."""
    start = 0
    while start < len(text):
        end = text.find("\n\n", start, start + MAX_PIECE)
        if end < 0:
            end = min(len(text), start + MAX_PIECE)
            if end < len(text):
                cuts = (text.rfind(mark, start + 1, end) + 1 for mark in (". ", " "))
                end = next((cut for cut in cuts if cut), end)
        if end > start:
            yield start, end
        start = end if end > start else start + 2


@cache
def load_analyzer(model: str) -> "BatchAnalyzerEngine":
    """Presidio's analyzer around a pipeline, once per process.

    Raises:
        EnvironmentMissingError: presidio or the pipeline is not here.
        ConfigError: it is no pipeline, or recognizes no persons.
    """
    if importlib.util.find_spec("presidio_analyzer") is None:
        raise EnvironmentMissingError(
            "curate.phi.names_model: needs presidio; install it with: pip install 'meditron[presidio]'"
        )
    import spacy
    from presidio_analyzer import AnalyzerEngine, BatchAnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
    from presidio_analyzer.predefined_recognizers import SpacyRecognizer

    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    if not (os.path.isdir(model) or spacy.util.is_package(model)):  # presidio itself would download it
        raise EnvironmentMissingError(
            f"curate.phi.names_model: {model!r} is neither a folder nor an installed package; install "
            "one of spaCy that finds persons (python -m spacy download en_core_web_lg), or name a folder"
        )
    nlp = _load_pipeline(model)
    labels = {label for names in nlp.pipe_labels.values() for label in names}
    if not labels & _PERSON_LABELS:
        raise ConfigError(
            f"curate.phi.names_model {model}: recognizes no persons (its labels: "
            f"{', '.join(sorted(labels)) or 'none'}); name a pipeline that does"
        )
    engine = SpacyNlpEngine(
        ner_model_configuration=NerModelConfiguration(
            model_to_presidio_entity_mapping=dict.fromkeys(_PERSON_LABELS, _PERSON),
            labels_to_ignore=labels - _PERSON_LABELS,
        )
    )
    engine.nlp = {nlp.lang: nlp}
    registry = RecognizerRegistry(
        recognizers=[SpacyRecognizer(supported_language=nlp.lang, supported_entities=[_PERSON])],
        supported_languages=[nlp.lang],
    )
    analyzer = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[nlp.lang])
    return BatchAnalyzerEngine(analyzer)


def _load_pipeline(model: str) -> Any:  # noqa: ANN401 - spaCy's Language, where that is installed
    import spacy

    try:
        nlp = spacy.load(model)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"curate.phi.names_model {model}: cannot be loaded by spaCy ({reason})") from error
    factories = {name: nlp.get_pipe_meta(name).factory for name in nlp.pipe_names}
    if not any(factory.endswith("ruler") for factory in factories.values() if factory != "attribute_ruler"):
        for name, factory in factories.items():  # a ruler's patterns may ask for what they find
            if factory in _NEEDLESS:
                nlp.remove_pipe(name)
    return nlp


def model_files(model: str) -> list[Path]:
    """Files of a pipeline that is a folder; they are part of what a corpus depends on."""
    return sorted(path for path in Path(model).rglob("*") if path.is_file())


def model_version(model: str) -> str:
    """Version of a pipeline that is a package, else empty."""
    try:
        return importlib.metadata.version(model)
    except importlib.metadata.PackageNotFoundError:
        return ""
