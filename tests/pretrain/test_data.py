"""The order of the data: pure, complete in every epoch, the same at any layout, resumable anywhere."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meditron.errors import ConfigError, InputError
from pretrain.data import IGNORE, Blend, SourceStream, TrainingData, ValidationData, open_shard

WEIGHTS = {"papers": 0.7, "replay": 0.3}


class Memory:
    """A shard in memory."""

    def __init__(self, documents: list[list[int]]) -> None:
        self.documents = [np.asarray(document, np.uint16) for document in documents]
        self.sequence_lengths = np.asarray([len(document) for document in documents], np.int32)

    def get(self, index: int, offset: int = 0, length: int | None = None) -> np.ndarray:
        return self.documents[index][offset:][:length]

    def __len__(self) -> int:
        return len(self.documents)


def numbered(lengths: list[int]) -> Memory:
    """Documents of which every token is another number."""
    ends = np.cumsum(lengths)
    return Memory([list(range(end - size, end)) for end, size in zip(ends, lengths, strict=True)])


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 16), st.integers(0, 2**70))
@settings(deadline=None, max_examples=50)
def test_an_epoch_predicts_each_token_once_in_whole_documents(
    lengths: list[int], sequence_length: int, seed: int
) -> None:
    total = sum(lengths)
    if total <= sequence_length:
        with pytest.raises(ConfigError, match="too long for the source"):
            SourceStream("a", numbered(lengths), sequence_length, seed)
        return
    stream = SourceStream("a", numbered(lengths), sequence_length, seed)
    for epoch in range(2):
        start = epoch * stream.samples_per_epoch
        samples = [stream.sample(start + n) for n in range(stream.samples_per_epoch)]
        assert all(len(sample) == sequence_length + 1 for sample in samples)
        predicted = np.concatenate([sample[1:] for sample in samples])
        assert len(set(predicted.tolist())) == len(predicted) == stream.samples_per_epoch * sequence_length
        starts = set(np.cumsum([0, *lengths]).tolist())
        for sample in samples:  # neighbours within a document, a new document elsewhere
            for before, after in zip(sample[:-1].tolist(), sample[1:].tolist(), strict=True):
                assert after == before + 1 or (after in starts and before + 1 in starts)


def test_epochs_seeds_and_sources_differ() -> None:
    shard = numbered([7] * 50)
    streams = {key: SourceStream(*key[:1], shard, 10, key[1]) for key in (("a", 1), ("a", 2), ("b", 1))}
    first = {key: [stream.sample(n).tolist() for n in range(34)] for key, stream in streams.items()}
    assert first["a", 1] != first["a", 2] != first["b", 1]
    again = [streams["a", 1].sample(n + 34).tolist() for n in range(34)]
    assert again != first["a", 1]


@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=5),
    st.integers(0, 10**7),
    st.integers(1, 60),
)
@settings(deadline=None, max_examples=80)
def test_the_blend_is_pure_and_keeps_its_shares(raw: list[float], start: int, count: int) -> None:
    weights = {f"s{n}": value / sum(raw) for n, value in enumerate(raw)}
    blend = Blend(weights)
    whole = blend.samples(start, count)
    pieces = [blend.samples(start + n, 1)[0] for n in range(count)]
    assert whole == pieces
    last = {}
    for name, index in whole:
        assert last.get(name, index - 1) == index - 1  # no sample of a source is left out or repeated
        last[name] = index
        assert abs(index - start * weights[name]) <= count * weights[name] + 3


def test_the_blend_from_its_start() -> None:
    counts = Counter(name for name, _ in Blend({"a": 0.5, "b": 0.3, "c": 0.2}).samples(0, 1000))
    assert counts == {"a": 500, "b": 300, "c": 200}


def test_a_batch_is_the_same_at_any_layout_and_place(shards: Path) -> None:
    data = TrainingData(shards, WEIGHTS, 24, seed=5)
    whole, sources, _ = data.batch(16, 8, 1, 0, 1)
    assert whole.shape == (8, 1, 25)
    assert Counter(sources) == {"papers": 6, "replay": 2} or Counter(sources) == {"papers": 5, "replay": 3}
    for ranks in (2, 4):
        parts = [
            TrainingData(shards, WEIGHTS, 24, seed=5).batch(16, 8, 2, rank, ranks)[0] for rank in range(ranks)
        ]
        joined = np.stack(parts, 1).reshape(8, 1, 25)
        assert (joined == whole).all()
    later, *_ = data.batch(10**6, 8, 1, 0, 1)
    assert (later == TrainingData(shards, WEIGHTS, 24, seed=5).batch(10**6, 8, 1, 0, 1)[0]).all()


def test_finding_a_late_sample_reads_no_earlier_one(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, epochs = [], []
    read, make = SourceStream._read, SourceStream._make_epoch
    monkeypatch.setattr(SourceStream, "_read", lambda *all_: (reads.append(1), read(*all_))[1])
    monkeypatch.setattr(SourceStream, "_make_epoch", lambda *all_: (epochs.append(1), make(*all_))[1])
    for start in (10**6, 10**12):
        reads.clear()
        epochs.clear()
        TrainingData(shards, WEIGHTS, 24, seed=5).batch(start, 8, 1, 0, 1)
        assert len(reads) == 8
        assert len(epochs) <= 4  # of two sources, the present epoch, and the next where one ends


def test_there_is_no_index_to_build(shards: Path) -> None:
    """Processes that start together cannot trip over one another: none of them writes beside the shards."""
    before = {path: path.stat().st_mtime_ns for path in shards.rglob("*")}
    data = TrainingData(shards, WEIGHTS, 24, seed=5)
    data.batch(0, 8, 1, 0, 1)
    data.batch(10**6, 8, 1, 0, 1)
    assert {path: path.stat().st_mtime_ns for path in shards.rglob("*")} == before


def test_validation_counts_every_token_once_on_any_number_of_ranks() -> None:
    shard = numbered([9, 4, 16, 2])
    for ranks in (1, 2, 3):
        data = ValidationData(shard, 8, 1000)
        parts = [data.batch(2, rank, ranks) for rank in range(ranks)]
        labels = np.concatenate([part[1].ravel() for part in parts])
        assert sorted(labels[labels != IGNORE].tolist()) == list(range(1, 31))
        assert len({part[0].shape for part in parts}) == 1
    assert ValidationData(shard, 8, 12).tokens == 12


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_shard_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.idx").write_bytes(b"nothing of the kind")
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"a.idx: is no readable Megatron index"):
        open_shard(tmp_path / "a")
