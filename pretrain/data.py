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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from meditron.errors import ConfigError, InputError
from meditron.models.megatron.cpu import quiet_import

Tokens = npt.NDArray[np.int64]
IGNORE = -1
"""Label of a position that has no loss."""


class Batch(NamedTuple):
    """One data-parallel rank's part of a step: M micro-batches of B samples of S tokens and one."""

    tokens: Tokens
    """int64 [M, B, S + 1]."""
    sources: list[str]
    """Source of every sample of the whole batch."""
    documents: Tokens
    """Which document of its sample each token is of, counted from 0: int64 [M, B, S + 1]."""


class Windows(NamedTuple):
    """One rank's held-out text, each int64 [M, B, S]."""

    inputs: Tokens
    labels: Tokens
    documents: Tokens


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
        return self.sample_with_documents(index)[0]

    def sample_with_documents(self, index: int) -> tuple[Tokens, Tokens]:
        """As `sample`, and which of its documents each token is of, counted from 0."""
        epoch, place = divmod(index, self.samples_per_epoch)
        documents, ends, chunks = self._epoch(epoch)
        return self._read(documents, ends, int(chunks[place]) * self._length)

    def _make_epoch(self, epoch: int) -> tuple[Tokens, Tokens, Tokens]:
        """Documents in their order, where each ends in the stream, and the order of the samples."""
        chooser = np.random.Generator(np.random.Philox(key=[self._key, epoch]))
        documents = chooser.permutation(len(self._document_lengths))
        ends = np.cumsum(self._document_lengths[documents])
        return documents, ends, chooser.permutation(self.samples_per_epoch)

    def _read(self, documents: Tokens, ends: Tokens, start: int) -> tuple[Tokens, Tokens]:
        stop = start + self._length + 1
        pieces = []
        place = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            document = int(documents[place])
            begin = int(ends[place] - self._document_lengths[document])
            count = min(stop, int(ends[place])) - start
            pieces.append(self._shard.get(document, offset=start - begin, length=count))
            start, place = start + count, place + 1
        lengths = [len(piece) for piece in pieces]
        return np.concatenate(pieces).astype(np.int64), np.repeat(np.arange(len(pieces)), lengths)


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


class TrainingData:
    """The samples of every step.

    Args:
        shards: folder of `tokenize`.
        weights: source to its share; the shares sum to 1.
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
    ) -> Batch:
        """One data-parallel rank's part of the samples from `start` on."""
        samples = self.blend.samples(start, global_batch_size)
        per_pass = micro_batch_size * data_parallel_size
        mine = [
            self._streams[name].sample_with_documents(k)
            for i in range(rank * micro_batch_size, global_batch_size, per_pass)
            for name, k in samples[i : i + micro_batch_size]
        ]
        length = len(mine[0][0])
        shape = (-1, micro_batch_size, length)
        tokens, documents = (np.stack(part).reshape(shape) for part in zip(*mine, strict=True))
        return Batch(tokens, [name for name, _ in samples], documents)


class ValidationData:
    """Held-out text of one source in fixed windows, the last one filled up with positions without loss.

    Args:
        shard: as `open_shard` gives it.
        sequence_length: tokens that a window predicts.
        max_tokens: tokens that are read at most.
        reset_attention_mask: see `labels_of`.
    """

    def __init__(
        self,
        shard: Any,  # noqa: ANN401
        sequence_length: int,
        max_tokens: int,
        reset_attention_mask: bool = False,
    ) -> None:
        documents, count = [], 0
        for index in range(len(shard)):
            documents.append(np.asarray(shard.get(index), np.int64))
            count += len(documents[-1])
            if count > max_tokens:
                break
        stream = np.concatenate(documents)[: max_tokens + 1]
        numbers = np.repeat(np.arange(len(documents)), [len(document) for document in documents])[
            : len(stream)
        ]
        labels = labels_of(stream, numbers if reset_attention_mask else None)
        self.tokens = max(len(stream) - 1, 0)
        rows = -(-self.tokens // sequence_length)
        windows = np.zeros((3, rows * sequence_length), np.int64)
        windows[1] = IGNORE
        windows[:, : self.tokens] = stream[:-1], labels, numbers[:-1]
        self._windows = windows.reshape(3, rows, sequence_length)

    def batch(self, micro_batch_size: int, rank: int, data_parallel_size: int) -> Windows:
        """One rank's windows.

        All ranks get the same number of micro-batches; what is missing has no loss.
        """
        _, rows, length = self._windows.shape
        per_pass = micro_batch_size * data_parallel_size
        padded = np.zeros((3, -(-rows // per_pass) * per_pass, length), np.int64)
        padded[1] = IGNORE
        padded[:, :rows] = self._windows
        return Windows(*padded.reshape(3, -1, data_parallel_size, micro_batch_size, length)[:, :, rank])


def labels_of(tokens: Tokens, documents: Tokens | None) -> Tokens:
    """The token after each; none where a document ends, if documents do not see each other.

    Args:
        tokens: [..., S + 1].
        documents: of each token, [..., S + 1]; None where they do see each other.
    """
    if documents is None:
        return tokens[..., 1:]
    return np.where(documents[..., 1:] == documents[..., :-1], tokens[..., 1:], IGNORE)
