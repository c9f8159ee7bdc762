"""Perplexity by source against transformers' own loss."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from evaluation.perplexity import measure, read_held_out
from meditron.config import PerplexityConfig
from meditron.errors import ConfigError, InputError, ManifestError
from meditron.manifest import write_manifest
from meditron.tokenizers import load_tokenizer
from tests.evaluation.adapter.test_score import make_lm
from tests.evaluation.conftest import write_corpus


def test_the_loss_is_that_of_transformers(model_folder: Path, tmp_path: Path) -> None:
    config = PerplexityConfig(corpus=str(write_corpus(tmp_path / "corpus")), window=512)
    held_out, manifest = read_held_out(config)
    assert [(one.source, one.kind, len(one.texts)) for one in held_out] == [
        ("articles", "medical", 4),
        ("essays", "general", 4),
    ]
    assert manifest.licenses == {"articles": "CC0-1.0"}
    lm = make_lm(model_folder, tmp_path / "cache", batch_tokens=100)
    entry = measure(lm, held_out, config, seed=1)[0]
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    losses, tokens = 0.0, 0
    for ids in load_tokenizer(model_folder).encode_batch(held_out[0].texts):
        row = torch.tensor([[0, *ids.tolist()]])
        with torch.no_grad():
            losses += float(model(input_ids=row, labels=row).loss) * len(ids)
        tokens += len(ids)
    assert entry["tokens"] == tokens
    assert entry["documents"] == 4
    assert entry["loss"] == pytest.approx(losses / tokens, abs=1e-5)
    assert entry["perplexity"] == pytest.approx(math.exp(entry["loss"]))
    low, high = entry["ci"]
    assert low < entry["perplexity"] < high
    size = sum(len(text.encode()) for text in held_out[0].texts)
    assert entry["bits_per_byte"] == pytest.approx(losses / math.log(2) / size, rel=1e-5)


def test_windows_cut_long_documents(model_folder: Path, tmp_path: Path) -> None:
    config = PerplexityConfig(corpus=str(write_corpus(tmp_path / "corpus")), window=20)
    held_out, _ = read_held_out(config)
    lm = make_lm(model_folder, tmp_path / "cache")
    cut = measure(lm, held_out, config, seed=1)[0]
    ids = load_tokenizer(model_folder).encode_batch(held_out[0].texts)
    assert cut["tokens"] == sum(len(one) for one in ids)
    assert max(len(one) for one in ids) > 40
    whole = measure(lm, held_out, PerplexityConfig(window=512), seed=1)[0]
    assert whole["loss"] != cut["loss"]


def test_perplexity_has_the_hash_of_how_it_was_measured(model_folder: Path, tmp_path: Path) -> None:
    held_out, _ = read_held_out(PerplexityConfig(corpus=str(write_corpus(tmp_path / "corpus"))))
    lm = make_lm(model_folder, tmp_path / "cache")

    def hashed(**settings: int) -> str:
        entry = measure(lm, held_out, PerplexityConfig(resamples=10, **settings), seed=1)[0]
        assert len(entry["protocol_hash"]) == 8
        return str(entry["protocol_hash"])

    assert len({hashed(window=512), hashed(window=64), hashed(window=64, max_characters=10**6)}) == 3
    assert hashed(window=512) == hashed(window=1024)  # the model reads no more than 512
    entry = measure(lm, held_out, PerplexityConfig(window=64, contexts=[10, 20]), seed=1)[0]
    assert entry["protocol_hash"] == hashed(window=64)
    assert entry["protocol_text"] == "windows of 64 tokens without overlap, one token known before each"
    assert len({point["protocol_hash"] for point in entry["by_context"]}) == 2


def test_a_longer_window_is_measured_on_the_same_long_documents(model_folder: Path, tmp_path: Path) -> None:
    corpus = str(write_corpus(tmp_path / "corpus"))
    held_out, _ = read_held_out(PerplexityConfig(corpus=corpus))
    lm = make_lm(model_folder, tmp_path / "cache")
    lengths = [len(ids) for ids in load_tokenizer(model_folder).encode_batch(held_out[0].texts)]
    longest = sorted(lengths)[-2]  # two of the four documents have so many tokens
    config = PerplexityConfig(contexts=[10, longest])
    for entry in measure(lm, held_out, config, seed=1):
        points = entry["by_context"]
        assert [point["context"] for point in points] == [10, longest]
        assert len({point["tokens"] for point in points}) == 1
    long = [one for one, size in zip(held_out[0].texts, lengths, strict=True) if size >= longest]
    held_out[0].texts = long
    alone = measure(lm, held_out[:1], PerplexityConfig(window=longest), seed=1)[0]
    first = measure(lm, held_out[:1], config, seed=1)[0]["by_context"][1]
    assert (first["loss"], first["documents"], first["ci"]) == (alone["loss"], 2, alone["ci"])


def test_contexts_beyond_the_model_and_without_documents_are_left_out(
    model_folder: Path, tmp_path: Path
) -> None:
    held_out, _ = read_held_out(PerplexityConfig(corpus=str(write_corpus(tmp_path / "corpus"))))
    lm = make_lm(model_folder, tmp_path / "cache")
    assert "by_context" not in measure(lm, held_out, PerplexityConfig(contexts=[16, 100_000]), seed=1)[0]
    lm._max_length = 20
    points = measure(lm, held_out, PerplexityConfig(contexts=[16, 24]), seed=1)[0]["by_context"]
    assert [point["context"] for point in points] == [16]


def test_a_limit_of_characters_is_the_same_text_for_every_model(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    held_out, _ = read_held_out(PerplexityConfig(corpus=str(corpus), max_characters=200))
    assert [sum(map(len, one.texts)) for one in held_out] == [200, 200]
    assert len(held_out[0].texts) == 2


@pytest.mark.parametrize("contexts", [[1], [64, 32], [32, 32]])
def test_contexts_that_are_refused(contexts: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"perplexity\.contexts: .* must rise and be at least 2"):
        PerplexityConfig(contexts=contexts)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="does not exist; run the stage that makes it"):
        read_held_out(PerplexityConfig(corpus=str(tmp_path / "none")))
    corpus = write_corpus(tmp_path / "corpus")
    file = corpus / "validation" / "essays-00000.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(ManifestError, match=r"essays-00000\.parquet: its SHA-256 differs"):
        read_held_out(PerplexityConfig(corpus=str(corpus)))
    empty = tmp_path / "empty"
    (empty / "validation").mkdir(parents=True)
    (empty / "stats.json").write_text('{"sources": {}}')
    write_manifest(empty, kind="corpus", config={}, inputs={}, counts={})
    with pytest.raises(InputError, match="holds no validation documents"):
        read_held_out(PerplexityConfig(corpus=str(empty)))
    pq.write_table(pa.table({"words": ["x"]}), empty / "validation" / "essays-00000.parquet")
    write_manifest(empty, kind="corpus", config={}, inputs={}, counts={})
    with pytest.raises(InputError, match="no Parquet file with texts"):
        read_held_out(PerplexityConfig(corpus=str(empty)))
