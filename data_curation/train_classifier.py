"""`meditron curate train-classifier`: a curated corpus's medical and general sources, told apart."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from data_curation.filters.classifier import CHARACTERS, Classifier, vectorizer
from meditron.config import Recipe, TrainClassifierConfig
from meditron.corpus import source_kinds
from meditron.errors import InputError
from meditron.manifest import read_manifest
from meditron.progress import console

KINDS = ("general", "medical")


def main(recipe: Recipe) -> None:
    """Train on the corpus's training side, measure on its validation side, and write the weights.

    Raises:
        InputError: the corpus lacks medical or general documents.
        ManifestError: the corpus is missing or damaged.
    """
    config = recipe.curate.train_classifier
    corpus = Path(recipe.curate.output or "")
    output = Path(config.output or "")
    read_manifest(corpus, kind="corpus")
    texts, labels = _load(corpus, "train", config, recipe.seed)
    classifier = train(texts, labels, config.features, recipe.seed)
    facts = {"documents": len(texts), "medical": int(labels.sum()), "seed": recipe.seed}
    held_out, wanted = _load(corpus, "validation", config, recipe.seed)
    figures = measure(classifier, held_out, wanted)
    classifier.save(output, facts | figures)
    listed = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
    console().print(f"{output}: trained on {len(texts):,} documents; on {len(held_out):,} held out: {listed}")


def train(texts: list[str], labels: npt.NDArray[np.int64], features: int, seed: int) -> Classifier:
    """Logistic regression by stochastic gradient descent; the same weights for the same seed."""
    from sklearn.linear_model import SGDClassifier

    model = SGDClassifier(loss="log_loss", alpha=1e-6, class_weight="balanced", random_state=seed)
    model.fit(vectorizer(features).transform(texts), labels)
    return Classifier(model.coef_[0].astype(np.float32), float(model.intercept_[0]))


def measure(classifier: Classifier, texts: list[str], labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Precision and recall of "medical" at 0.5; of nothing there is no figure."""
    if not texts:
        return {}
    found = classifier.probabilities(texts) >= 0.5
    right = float(np.sum(found & (labels == 1)))
    return {"precision": right / max(int(found.sum()), 1), "recall": right / max(int(labels.sum()), 1)}


def _load(
    corpus: Path, split: str, config: TrainClassifierConfig, seed: int
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Heads of at most `max_documents` texts of each source, and 1 where they are medical."""
    texts: list[str] = []
    labels: list[int] = []
    for name, kind in source_kinds(corpus).items():
        found = list(_sample(corpus / split, name, config.max_documents, seed))
        texts += found
        labels += [KINDS.index(kind)] * len(found)
    if split == "train" and len(set(labels)) < len(KINDS):
        raise InputError(
            f"{corpus}: a classifier needs documents of both kinds, and there are only "
            f"{', '.join({KINDS[label] for label in labels}) or 'none'}; curate a source of the other kind"
        )
    return texts, np.array(labels, dtype=np.int64)


def _sample(folder: Path, source: str, count: int, seed: int) -> Iterator[str]:
    """Documents of a source, chosen by the seed and read one row group at a time."""
    files = sorted(folder.glob(f"{source}-[0-9][0-9][0-9][0-9][0-9].parquet"))
    sizes = [pq.read_metadata(file).num_rows for file in files]
    total = sum(sizes)
    chosen = np.random.default_rng(seed).permutation(total)[:count]
    wanted = np.zeros(total, dtype=np.bool_)
    wanted[chosen] = True
    start = 0
    for file in files:
        with pq.ParquetFile(file) as reader:
            for batch in reader.iter_batches(batch_size=1024, columns=["text"]):
                for text, take in zip(batch["text"], wanted[start : start + len(batch)], strict=True):
                    if take:
                        yield text.as_py()[:CHARACTERS]
                start += len(batch)
