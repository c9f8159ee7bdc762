"""Perplexity on held-out documents, by source."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.adapter.lm import MeditronLM, Pair
from evaluation.statistics import ratio_interval
from meditron.config import PerplexityConfig
from meditron.corpus import source_kinds
from meditron.errors import InputError
from meditron.manifest import Manifest, read_manifest
from meditron.tokenizers import load_tokenizer

VALIDATION_FILE = re.compile(r"validation/(?P<source>[^/]+)-\d{5,}\.parquet")


@dataclass(kw_only=True)
class HeldOut:
    """Held-out documents of a source."""

    source: str
    """Name of the source."""
    kind: str
    """`medical` or `general`."""
    texts: list[str]
    """The documents."""


def read_held_out(config: PerplexityConfig) -> tuple[list[HeldOut], Manifest]:
    """The validation documents of a corpus, by source, and the corpus's manifest.

    Raises:
        ManifestError: the corpus is missing or does not match its manifest.
        InputError: it holds no validation documents, or not each source's kind.
    """
    corpus = Path(str(config.corpus))
    manifest = read_manifest(corpus, kind="corpus", check_files="full")
    kinds = source_kinds(corpus)
    held_out: dict[str, HeldOut] = {}
    for name in sorted(manifest.files):
        if match := VALIDATION_FILE.fullmatch(name):
            source = match["source"]
            own = HeldOut(source=source, kind=kinds.get(source, "medical"), texts=[])
            held_out.setdefault(source, own).texts.extend(_texts(corpus / name))
    for own in held_out.values():
        own.texts = list(_first(own.texts, config.max_characters))
    found = [own for own in held_out.values() if own.texts]
    if not found:
        raise InputError(
            f"{corpus}: holds no validation documents; set curate.validation_fraction above 0, or turn "
            "evaluate.perplexity.enabled off"
        )
    return found, manifest


def _texts(file: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        texts: list[str] = pq.read_table(file, columns=["text"])["text"].to_pylist()
    except (pa.ArrowException, KeyError) as error:
        raise InputError(
            f"{file}: no Parquet file with texts ({error}); run `meditron curate` again"
        ) from error
    return texts


def _first(texts: list[str], characters: int | None) -> Iterator[str]:
    """Texts up to a number of characters; the one that crosses it is cut."""
    left = math.inf if characters is None else characters
    for text in texts:
        if left <= 0:
            return
        yield text if len(text) <= left else text[: int(left)]
        left -= len(text)


def measure(
    lm: MeditronLM, held_out: list[HeldOut], config: PerplexityConfig, seed: int
) -> list[dict[str, Any]]:
    """Loss per token of every source, its perplexity, and a bootstrap interval over documents.

    Each document is tokenized by the model's own tokenizer, as `meditron tokenize` does it, and cut into
    windows; a window's first token is predicted from the token before it, a document's from the
    beginning-of-sequence token, or else the end-of-sequence token.
    """
    tokenizer = load_tokenizer(lm.loaded.path)
    window = min(config.window, lm.max_length)
    pairs: list[Pair] = []
    owners: list[tuple[int, int]] = []
    for place, source in enumerate(held_out):
        for number, ids in enumerate(tokenizer.encode_batch(source.texts)):
            windows = list(_windows(ids.tolist(), int(lm.prefix_token_id), window))
            pairs += windows
            owners += [(place, number)] * len(windows)
    answers = lm.score_tokens(pairs)
    losses: list[dict[int, list[float]]] = [{} for _ in held_out]
    for (place, number), (_, _, targets), (logprob, _) in zip(owners, pairs, answers, strict=True):
        sums = losses[place].setdefault(number, [0.0, 0.0])
        sums[0] -= logprob
        sums[1] += len(targets)
    return [
        _entry(source, list(own.values()), config.resamples, seed)
        for source, own in zip(held_out, losses, strict=True)
        if own
    ]


def _windows(ids: list[int], prefix: int, window: int) -> Iterator[Pair]:
    for begin in range(0, len(ids), window):
        yield None, [ids[begin - 1] if begin else prefix], ids[begin : begin + window]


def _entry(source: HeldOut, documents: list[list[float]], resamples: int, seed: int) -> dict[str, Any]:
    losses, sizes = [loss for loss, _ in documents], [size for _, size in documents]
    loss = math.fsum(losses) / sum(sizes)
    entry: dict[str, Any] = {
        "source": source.source,
        "kind": source.kind,
        "tokens": int(sum(sizes)),
        "documents": len(documents),
        "loss": loss,
        "perplexity": _perplexity(loss),
        "bits_per_byte": math.fsum(losses) / math.log(2) / sum(len(text.encode()) for text in source.texts),
    }
    entry["document_losses"] = [[loss, int(size)] for loss, size in documents]
    if interval := ratio_interval(losses, sizes, resamples, seed):
        entry["ci"] = [_perplexity(bound) for bound in interval]
        entry["ci_method"] = "bootstrap over documents, 95%"
    return entry


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # beyond it a float overflows; such a model is broken anyway
