"""Which tokens make up each sample.

Sample i of a run is a pure function of (seed, shards, weights, sequence length, i): it does not depend on
the number of processes, nor on where a run was resumed, and finding it does not walk through what is before.

A sample is `sequence_length + 1` neighbouring tokens of a source's stream: its documents, each ended by the
end-of-text token, in a random order of their own in every epoch. Samples overlap by one token, so that each
token is predicted once an epoch.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from meditron.errors import ConfigError, InputError
from meditron.models.megatron.cpu import quiet_import

Tokens = npt.NDArray[np.int64]
IGNORE = -1
"""Label of a position that has no loss."""


def open_shard(prefix: Path) -> Any:  # noqa: ANN401 - megatron's IndexedDataset is not typed
    """Megatron's memory-mapped reader of `<prefix>.bin` and `<prefix>.idx`.

    Raises:
        InputError: a file is missing or is no Megatron shard.
    """
    with quiet_import():
        from megatron.core.datasets.indexed_dataset import IndexedDataset
    try:
        return IndexedDataset(str(prefix))
    except (AssertionError, OSError, ValueError) as error:
        raise InputError(f"{prefix}.idx: is no readable Megatron index ({error}); tokenize again") from error


class SourceStream:
    """The samples of one source, epoch after epoch.

    Args:
        name: the source.
        shard: as `open_shard` gives it.
        sequence_length: tokens that a sample predicts.
        seed: decides the orders.

    Raises:
        ConfigError: the source is shorter than one sample.
    """

    def __init__(self, name: str, shard: Any, sequence_length: int, seed: int) -> None:  # noqa: ANN401
        self._shard, self._length = shard, sequence_length
        self._key = xxhash.xxh3_64_intdigest(name.encode(), seed % 2**64)
        self._document_lengths = np.asarray(shard.sequence_lengths, np.int64)
        total = int(self._document_lengths.sum())
        self.samples_per_epoch = (total - 1) // sequence_length
        if self.samples_per_epoch < 1:
            raise ConfigError(
                f"pretrain.sequence_length: {sequence_length} is too long for the source {name!r} of "
                f"{total:,} tokens; lower it, or leave the source out of pretrain.weights"
            )
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def sample(self, index: int) -> Tokens:
        """Sample `index`, counted over all epochs: int64 [sequence_length + 1]."""
        epoch, place = divmod(index, self.samples_per_epoch)
        documents, ends, chunks = self._epoch(epoch)
        return self._read(documents, ends, int(chunks[place]) * self._length)

    def _make_epoch(self, epoch: int) -> tuple[Tokens, Tokens, Tokens]:
        """Documents in their order, where each ends in the stream, and the order of the samples."""
        chooser = np.random.Generator(np.random.Philox(key=[self._key, epoch]))
        documents = chooser.permutation(len(self._document_lengths))
        ends = np.cumsum(self._document_lengths[documents])
        return documents, ends, chooser.permutation(self.samples_per_epoch)

    def _read(self, documents: Tokens, ends: Tokens, start: int) -> Tokens:
        stop = start + self._length + 1
        pieces = []
        place = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            document = int(documents[place])
            begin = int(ends[place] - self._document_lengths[document])
            count = min(stop, int(ends[place])) - start
            pieces.append(self._shard.get(document, offset=start - begin, length=count))
            start, place = start + count, place + 1
        return np.concatenate(pieces).astype(np.int64)


class Blend:
    """Which source each sample of the run comes from, in fixed shares and evenly mixed.

    The k-th sample of a source with weight w is due at time (k + 1/2) / w; samples are taken in the order
    in which they are due. After n samples a source has had n w of them, to within one or two.

    Args:
        weights: source to its share; the shares sum to 1.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}

    def samples(self, start: int, count: int) -> list[tuple[str, int]]:
        """(source, its sample) for the samples `start` to `start + count` of the run."""
        sources = len(self.weights)
        before, after = max(start - sources, 0), start + count + sources
        passed, due = 0, []
        for number, (name, weight) in enumerate(self.weights.items()):
            first, last = max(int(before * weight) - 2, 0), int(after * weight) + 3
            times = (np.arange(first, last) + 0.5) / weight
            gone = int(np.searchsorted(times, before, side="right"))
            passed += first + gone
            due += [(float(times[k - first]), number, name, k) for k in range(first + gone, last)]
        due.sort()
        return [(name, k) for _, _, name, k in due[start - passed : start - passed + count]]


def shares(weights: Mapping[str, float], tokens: Mapping[str, int]) -> dict[str, float]:
    """Share of each source in the samples.

    Args:
        weights: as configured; empty means in proportion to `tokens`.
        tokens: training tokens of each source in the shards.

    Raises:
        ConfigError: a weighted source is not in the shards.
    """
    unknown = sorted(name for name in weights if not tokens.get(name))
    if unknown:
        raise ConfigError(
            f"pretrain.weights.{unknown[0]}: the shards have no training text of this source; "
            f"they have {', '.join(name for name in tokens if tokens[name]) or 'none'}"
        )
    chosen = dict(weights) or {name: float(count) for name, count in tokens.items() if count}
    if not chosen:
        raise ConfigError("pretrain.shards: hold no training text; add documents to the corpus")
    total = sum(chosen.values())
    return {name: weight / total for name, weight in sorted(chosen.items())}


class TrainingData:
    """The samples of every step.

    Args:
        shards: folder of `tokenize`.
        weights: see `shares`.
        sequence_length: tokens that a sample predicts.
        seed: decides the orders.
    """

    def __init__(self, shards: Path, weights: Mapping[str, float], sequence_length: int, seed: int) -> None:
        self.blend = Blend(weights)
        self._streams = {
            name: SourceStream(name, open_shard(shards / "train" / name), sequence_length, seed)
            for name in self.blend.weights
        }

    def batch(
        self, start: int, global_batch_size: int, micro_batch_size: int, rank: int, data_parallel_size: int
    ) -> tuple[Tokens, list[str]]:
        """One data-parallel rank's part of the samples from `start` on.

        Returns:
            its tokens, int64 [micro-batches, micro_batch_size, sequence_length + 1], and the sources of
            the whole batch.
        """
        samples = self.blend.samples(start, global_batch_size)
        per_pass = micro_batch_size * data_parallel_size
        mine = [
            [
                self._streams[name].sample(k)
                for name, k in samples[i + rank * micro_batch_size : i + (rank + 1) * micro_batch_size]
            ]
            for i in range(0, global_batch_size, per_pass)
        ]
        return np.asarray(mine), [name for name, _ in samples]


class ValidationData:
    """Held-out text of one source in fixed windows, the last one filled up with positions without loss.

    Args:
        shard: as `open_shard` gives it.
        sequence_length: tokens that a window predicts.
        max_tokens: tokens that are read at most.
    """

    def __init__(self, shard: Any, sequence_length: int, max_tokens: int) -> None:  # noqa: ANN401
        documents, count = [], 0
        for index in range(len(shard)):
            documents.append(np.asarray(shard.get(index), np.int64))
            count += len(documents[-1])
            if count > max_tokens:
                break
        stream = np.concatenate(documents)[: max_tokens + 1]
        self.tokens = max(len(stream) - 1, 0)
        rows = -(-self.tokens // sequence_length)
        inputs = np.zeros(rows * sequence_length, np.int64)
        labels = np.full(rows * sequence_length, IGNORE, np.int64)
        inputs[: self.tokens], labels[: self.tokens] = stream[:-1], stream[1:]
        self._pairs = np.stack([inputs, labels], 1).reshape(rows, sequence_length, 2)

    def batch(self, micro_batch_size: int, rank: int, data_parallel_size: int) -> tuple[Tokens, Tokens]:
        """One rank's windows: inputs and labels, each int64 [micro-batches, micro_batch_size, sequence].

        All ranks get the same number of micro-batches; what is missing has no loss.
        """
        per_pass = micro_batch_size * data_parallel_size
        rows = -(-len(self._pairs) // per_pass) * per_pass
        padded = np.zeros((rows, *self._pairs.shape[1:]), np.int64)
        padded[..., 1] = IGNORE
        padded[: len(self._pairs)] = self._pairs
        cut = padded.reshape(-1, data_parallel_size, micro_batch_size, *self._pairs.shape[1:])[:, rank]
        return cut[..., 0], cut[..., 1]
