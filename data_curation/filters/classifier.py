"""A linear classifier on hashed words and pairs of words: how likely a text is medical."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from datatrove.data import Document

from data_curation.filters.base import Verdict
from meditron.errors import InputError
from meditron.files import atomic_write

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import HashingVectorizer

CHARACTERS = 4000
"""Characters at the head of a document that the classifier sees."""
_FORMAT = "meditron text classifier 1"


@dataclass(frozen=True)
class Classifier:
    """The trained weights."""

    weights: npt.NDArray[np.float32]
    """[features], a power of two."""
    bias: float
    """Log-odds of a text without any known word."""

    def probabilities(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Probability of each text being medical, [texts]."""
        features = vectorizer(len(self.weights)).transform([text[:CHARACTERS] for text in texts])
        return np.asarray(1 / (1 + np.exp(-(features @ self.weights.astype(np.float64) + self.bias))))

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """Write weights as safetensors, with facts about the training beside them."""
        from safetensors.numpy import save

        tensors = {"weights": self.weights, "bias": np.array([self.bias], dtype=np.float32)}
        with atomic_write(path) as handle:
            handle.write(save(tensors, metadata={_FORMAT: json.dumps(facts)}))


@cache
def load_classifier(path: str) -> Classifier:
    """Read what `Classifier.save` wrote.

    Raises:
        InputError: the file is missing or is no classifier.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            if _FORMAT not in (file.metadata() or {}):
                raise ValueError("is of another kind")
            return Classifier(file.get_tensor("weights"), float(file.get_tensor("bias")[0]))
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"curate.filters.classifier {path}: cannot be read as a classifier ({error}); "
            "`meditron curate train-classifier` writes one"
        ) from error


@cache
def vectorizer(features: int) -> "HashingVectorizer":
    """Words and pairs of words to `features` hashed counts of unit length, without a vocabulary."""
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(n_features=features, ngram_range=(1, 2), alternate_sign=False, dtype=np.float32)


@dataclass(frozen=True)
class MedicalText:
    """Drops what a classifier takes for something else."""

    path: str
    threshold: float

    def __call__(self, document: Document) -> Verdict:
        """Judge by the head of the document; text that is general on purpose is let pass."""
        if document.metadata["kind"] != "medical":
            return True
        (probability,) = load_classifier(self.path).probabilities([document.text])
        return True if probability >= self.threshold else (False, "not medical by the classifier")
