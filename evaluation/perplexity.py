"""Perplexity on held-out documents, by source."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.adapter.lm import MeditronLM, Pair
from evaluation.protocols import perplexity_hash, perplexity_text
from evaluation.statistics import ratio_interval
from meditron.config import PerplexityConfig
from meditron.corpus import source_kinds
from meditron.errors import InputError
from meditron.manifest import Manifest, read_manifest
from meditron.progress import console
from meditron.tokenizers import load_tokenizer

Sums = tuple[float, int]
"""Loss and tokens of a document."""
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
    documents = [[ids.tolist() for ids in tokenizer.encode_batch(source.texts)] for source in held_out]
    window, most = min(config.window, lm.max_length), config.max_characters
    losses = _losses(lm, documents, window)
    found = [(place, own) for place, own in enumerate(losses) if own]
    how = {"protocol_hash": perplexity_hash(window, most), "protocol_text": perplexity_text(window, most)}
    entries = {place: _entry(held_out[place], own, config.resamples, seed) | how for place, own in found}
    for place, points in _by_context(lm, documents, config, seed).items():
        entries[place]["by_context"] = points
    return list(entries.values())


def _losses(lm: MeditronLM, documents: Sequence[Sequence[list[int]]], window: int) -> list[list[Sums]]:
    """By source, loss and tokens of every document that has any, read in windows."""
    pairs: list[Pair] = []
    owners: list[tuple[int, int]] = []
    for place, own in enumerate(documents):
        for number, ids in enumerate(own):
            windows = list(_windows(ids, int(lm.prefix_token_id), window))
            pairs += windows
            owners += [(place, number)] * len(windows)
    answers = lm.score_tokens(pairs)
    losses: list[dict[int, Sums]] = [{} for _ in documents]
    for (place, number), (_, _, targets), (logprob, _) in zip(owners, pairs, answers, strict=True):
        loss, tokens = losses[place].get(number, (0.0, 0))
        losses[place][number] = (loss - logprob, tokens + len(targets))
    return [list(own.values()) for own in losses]


def _by_context(
    lm: MeditronLM, documents: Sequence[Sequence[list[int]]], config: PerplexityConfig, seed: int
) -> dict[int, list[dict[str, Any]]]:
    """Place of each source with long documents to their perplexity at every context that the model has."""
    contexts = [length for length in config.contexts if length <= lm.max_length]
    if not contexts:
        return {}
    longest = max(config.contexts)
    long = [[ids for ids in own if len(ids) >= longest] for own in documents]
    points: dict[int, list[dict[str, Any]]] = {place: [] for place, own in enumerate(long) if own}
    if not points:
        console().print(f"{lm.label}: no document has {longest:,} tokens, so no window is compared")
    for context in contexts:
        losses = _losses(lm, long, context)
        for place, found in points.items():
            own = losses[place]
            point: dict[str, Any] = {
                "context": context,
                "documents": len(own),
                "tokens": sum(size for _, size in own),
            }
            point["protocol_hash"] = perplexity_hash(context, config.max_characters, longest)
            found.append(point | _figures(own, config.resamples, seed))
    return points


def _windows(ids: list[int], prefix: int, window: int) -> Iterator[Pair]:
    for begin in range(0, len(ids), window):
        yield None, [ids[begin - 1] if begin else prefix], ids[begin : begin + window]


def _entry(source: HeldOut, documents: Sequence[Sums], resamples: int, seed: int) -> dict[str, Any]:
    total = math.fsum(loss for loss, _ in documents)
    return {
        "source": source.source,
        "kind": source.kind,
        "tokens": sum(size for _, size in documents),
        "documents": len(documents),
        **_figures(documents, resamples, seed),
        "bits_per_byte": total / math.log(2) / sum(len(text.encode()) for text in source.texts),
        "document_losses": [list(document) for document in documents],
    }


def _figures(documents: Sequence[Sums], resamples: int, seed: int) -> dict[str, Any]:
    """Loss per token, perplexity, and an interval where there are documents enough."""
    losses, sizes = [loss for loss, _ in documents], [float(size) for _, size in documents]
    loss = math.fsum(losses) / sum(sizes)
    figures: dict[str, Any] = {"loss": loss, "perplexity": _perplexity(loss)}
    if interval := ratio_interval(losses, sizes, resamples, seed):
        figures["ci"] = [_perplexity(bound) for bound in interval]
        figures["ci_method"] = "bootstrap over documents, 95%"
    return figures


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # beyond it a float overflows; such a model is broken anyway
