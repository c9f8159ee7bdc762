"""Corpus to shards: byte-identical to megatron's own builder, whole or absent, resumable."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentencepiece
import tokenizers
import torch
import transformers
from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

from data_curation import encode, shards, tokenize
from meditron.config import Recipe, resolve
from meditron.errors import ConfigError, DiskFullError, InputError, ManifestError, MeditronError
from meditron.files import atomic_write_json
from meditron.manifest import read_manifest, write_manifest

WORDS = ["HbA1c", "7.2%", "patient", "was", "given", "metformin", "500", "mg;", "eGFR", "<60", "BP", "140/90"]


def make_texts(count: int, seed: int) -> list[str]:
    chooser = random.Random(seed)
    return [" ".join(chooser.choices(WORDS, k=chooser.randint(1, 80))) for _ in range(count)]


def make_corpus(folder: Path, texts: dict[str, list[str]], group: int = 16) -> Path:
    """A corpus of `<split>/<source>-NNNNN` to texts."""
    for name, some in texts.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table(
            {"id": [str(i) for i in range(len(some))], "text": pa.array(some, pa.large_string())}
        )
        pq.write_table(table, path, row_group_size=group)
    names = {name.split("/")[1].rsplit("-", 1)[0] for name in texts}
    kinds = {name: {"kind": "general" if name == "replay" else "medical"} for name in names}
    atomic_write_json(folder / "stats.json", {"sources": kinds})
    write_manifest(folder, kind="corpus", config={}, inputs={}, counts={}, licenses={"plos": "CC-BY"})
    return folder


@pytest.fixture(scope="session")
def tokenizer_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tokenizer of each kind, trained on the test's own words."""
    folder = tmp_path_factory.mktemp("tokenizers")
    (folder / "hf").mkdir()
    (folder / "sp").mkdir()
    texts = make_texts(300, 0)
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=400, special_tokens=["<s>", "</s>"])
    trained.save(str(folder / "hf" / "tokenizer.json"))
    (folder / "hf" / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "</s>", "bos_token": "<s>"})
    )
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / "sp" / "tokenizer"),
        vocab_size=120,
        model_type="bpe",
        byte_fallback=False,
        minloglevel=2,
    )
    return {"hf": folder / "hf", "sp": folder / "sp"}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return make_corpus(
        tmp_path / "corpus",
        {
            "train/plos-00000": make_texts(50, 1),
            "train/plos-00001": ["</s>", "é", *make_texts(9, 2)],
            "train/replay-00000": make_texts(20, 3),
            "validation/plos-00000": make_texts(5, 4),
        },
    )


def make_recipe(tmp_path: Path, tokenizer: Path | str, **settings: object) -> Recipe:
    recipe = resolve(Recipe(work_dir=str(tmp_path)))
    recipe.tokenize.tokenizer = str(tokenizer)
    for name, value in settings.items():
        setattr(recipe.tokenize, name, value)
    return recipe


def reference(corpus: Path, split: str, source: str, folder: Path, target: Path) -> None:
    """A plain loop over megatron's builder with transformers' or sentencepiece's own encoding."""
    if (folder / "tokenizer.json").exists():
        library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        library.encode_special_tokens = True
        size, eos = library.get_vocab_size(), library.token_to_id("</s>")
        encoded = lambda text: library.encode(text, add_special_tokens=False).ids  # noqa: E731
    else:
        library = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        size, eos, encoded = library.get_piece_size(), library.eos_id(), library.encode
    builder = IndexedDatasetBuilder(f"{target}.bin", dtype=DType.optimal_dtype(size))
    for file in sorted((corpus / split).glob(f"{source}-*.parquet")):
        for text in pq.read_table(file)["text"].to_pylist():
            ids = [*encoded(text), eos]
            builder.add_document(torch.tensor(ids), [len(ids)])
    builder.finalize(f"{target}.idx")


@pytest.mark.parametrize("kind", ["hf", "sp"])
@pytest.mark.parametrize("workers", [1, 2])
def test_shards_are_what_megatrons_builder_writes(
    kind: str, workers: int, tmp_path: Path, corpus: Path, tokenizer_folders: dict[str, Path]
) -> None:
    folder = tokenizer_folders[kind]
    tokenize.main(make_recipe(tmp_path, folder, workers=workers, batch_megabytes=0.001))
    for split, source in (("train", "plos"), ("train", "replay"), ("validation", "plos")):
        reference(corpus, split, source, folder, tmp_path / "reference")
        for ending in (".bin", ".idx"):
            made = tmp_path / "shards" / split / f"{source}{ending}"
            assert made.read_bytes() == (tmp_path / f"reference{ending}").read_bytes(), made
    dataset = IndexedDataset(str(tmp_path / "shards" / "train" / "plos"))
    tokens = json.loads((tmp_path / "shards" / "tokens.json").read_text())
    assert len(dataset) == 61 == tokens["sources"]["plos"]["train_documents"]
    assert dataset.sequence_lengths.sum() == tokens["sources"]["plos"]["train_tokens"]
    assert all(dataset[i][-1] == tokens["eos_token_id"] for i in range(len(dataset)))
    # A document that spells the end token is text: it is not ended by it.
    assert tokens["eos_token_id"] not in dataset[50][:-1]


def test_what_is_recorded(
    tmp_path: Path, corpus: Path, tokenizer_folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(tmp_path, tokenizer_folders["hf"])
    tokenize.main(recipe)
    manifest = read_manifest(tmp_path / "shards", kind="shards", check_files="full")
    assert manifest.inputs["corpus"] == read_manifest(corpus, kind="corpus").hash
    assert manifest.licenses == {"plos": "CC-BY"}
    assert manifest.counts["train_documents"] == 81
    tokens = json.loads((tmp_path / "shards" / "tokens.json").read_text())
    assert tokens["dtype"] == "uint16"
    assert tokens["sources"]["replay"]["kind"] == "general"
    assert tokens["sources"]["replay"]["validation_documents"] == 0
    assert not (tmp_path / "shards" / "validation" / "replay.bin").exists()
    assert (tmp_path / "shards" / "tokenizer" / "tokenizer.json").exists()
    assert not (tmp_path / "shards.work").exists()
    table = capsys.readouterr().out
    assert f"{tokens['sources']['plos']['train_tokens']:,}" in table
    assert max(map(len, table.splitlines())) <= 80
    before = (tmp_path / "shards" / "manifest.json").stat().st_mtime_ns
    tokenize.main(recipe)
    assert (tmp_path / "shards" / "manifest.json").stat().st_mtime_ns == before


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    assert shards.id_type(65499) == np.uint16
    assert shards.id_type(65500) == np.int32
    lengths = np.array([3, 2], np.int32)
    (tmp_path / "x.bin").write_bytes(np.array([1, 2, 70000, 4, 5], np.int32).tobytes())
    shards.write_index(tmp_path / "x.idx", lengths, np.dtype(np.int32))
    dataset = IndexedDataset(str(tmp_path / "x"))
    assert [list(dataset[i]) for i in range(2)] == [[1, 2, 70000], [4, 5]]


def test_without_end_tokens(tmp_path: Path, corpus: Path, tokenizer_folders: dict[str, Path]) -> None:
    tokenize.main(make_recipe(tmp_path, tokenizer_folders["hf"], append_eos=False))
    dataset = IndexedDataset(str(tmp_path / "shards" / "train" / "plos"))
    assert not any(1 in dataset[i] for i in range(len(dataset)))


def test_added_tokens_have_an_id_each(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> None:
    texts = ["patient [bib_ref] HbA1c 7.2% [/bib_ref] was given", "BP[bib_ref]140/90 </s>"]
    make_corpus(tmp_path / "corpus", {"train/plos-00000": texts})
    known = tokenizers.Tokenizer.from_file(str(tokenizer_folders["hf"] / "tokenizer.json"))
    opening, closing = known.get_vocab_size(), known.get_vocab_size() + 1
    added = ["[bib_ref]", "[/bib_ref]", "</s>"]  # the last one it has
    tokenize.main(make_recipe(tmp_path, tokenizer_folders["hf"], added_tokens=added))
    tokens = json.loads((tmp_path / "shards" / "tokens.json").read_text())
    assert tokens["added_tokens"] == {"[bib_ref]": opening, "[/bib_ref]": closing}
    assert tokens["vocab_size"] == closing + 1
    dataset = IndexedDataset(str(tmp_path / "shards" / "train" / "plos"))
    documents = [dataset[number].tolist() for number in range(len(dataset))]
    assert [[ids.count(token) for token in (opening, closing)] for ids in documents] == [[1, 1], [1, 0]]
    assert all(ids.count(tokens["eos_token_id"]) == 1 for ids in documents)
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "shards" / "tokenizer")
    assert [saved.decode(ids[:-1]) for ids in documents] == texts


def test_a_sentencepiece_model_takes_no_added_tokens(
    tmp_path: Path, corpus: Path, tokenizer_folders: dict[str, Path]
) -> None:
    recipe = make_recipe(tmp_path, tokenizer_folders["sp"], added_tokens=["[bib_ref]"])
    with pytest.raises(InputError, match=r"takes no further tokens \(tokenize.added_tokens\)"):
        tokenize.main(recipe)


def test_an_interrupted_run_goes_on(
    tmp_path: Path, corpus: Path, tokenizer_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(tmp_path, tokenizer_folders["hf"])
    monkeypatch.setattr(tokenize, "_assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tokenize.main(recipe)
    monkeypatch.undo()
    parts = sorted((tmp_path / "shards.work").rglob("*.ids"))
    times = [part.stat().st_mtime_ns for part in parts]
    shards.lengths_path(parts[0]).unlink()  # this one was not finished
    made = []
    original = encode.ProcessPoolExecutor.submit
    monkeypatch.setattr(
        encode.ProcessPoolExecutor,
        "submit",
        lambda self, f, part: (made.append(part), original(self, f, part))[1],
    )
    tokenize.main(recipe)
    assert len(times) == 8
    assert [part.path for part in made] == parts[:1]
    assert read_manifest(tmp_path / "shards", kind="shards").counts["train_documents"] == 81


def test_another_tokenizer_does_not_use_old_parts(
    tmp_path: Path, corpus: Path, tokenizer_folders: dict[str, Path]
) -> None:
    tokenize.main(make_recipe(tmp_path, tokenizer_folders["hf"]))
    first = (tmp_path / "shards" / "train" / "plos.bin").read_bytes()
    tokenize.main(make_recipe(tmp_path, tokenizer_folders["sp"]))
    assert (tmp_path / "shards" / "train" / "plos.bin").read_bytes() != first


def test_the_corpus_must_match_its_manifest(
    tmp_path: Path, corpus: Path, tokenizer_folders: dict[str, Path]
) -> None:
    recipe = make_recipe(tmp_path, tokenizer_folders["hf"])
    file = corpus / "train" / "plos-00000.parquet"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(ManifestError, match=r"plos-00000\.parquet.*SHA-256"):
        tokenize.main(recipe)
    (corpus / "manifest.json").unlink()
    with pytest.raises(ManifestError, match=r"no manifest\.json"):
        tokenize.main(recipe)
    assert not (tmp_path / "shards").exists()


def test_an_empty_corpus_is_refused(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> None:
    make_corpus(tmp_path / "corpus", {"train/plos-00000": []})
    with pytest.raises(InputError, match="no document to train on"):
        tokenize.main(make_recipe(tmp_path, tokenizer_folders["hf"]))


def test_a_preset_has_no_tokenizer(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"'tiny' is a preset.*tokenizer\.json"):
        tokenize.main(make_recipe(tmp_path, "tiny"))


def test_a_foreign_folder_is_not_replaced(
    tmp_path: Path, corpus: Path, tokenizer_folders: dict[str, Path]
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no shards"):
        tokenize.main(make_recipe(tmp_path, tokenizer_folders["hf"]))
    with pytest.raises(ManifestError, match="a shards is needed"):
        tokenize.main(make_recipe(tmp_path, tokenizer_folders["hf"], output=str(corpus)))
    assert (tmp_path / "shards" / "thesis.txt").read_text() == "mine"


def test_a_full_disk_leaves_no_half_shard(
    tmp_path: Path, corpus: Path, tokenizer_folders: dict[str, Path]
) -> None:
    if os.geteuid() != 0 or os.system(
        f"mkdir {tmp_path}/small && mount -t tmpfs -o size=64k x {tmp_path}/small"
    ):
        pytest.skip("cannot mount a small tmpfs here")
    try:
        make_corpus(tmp_path / "large", {"train/plos-00000": make_texts(4000, 5)})
        recipe = make_recipe(
            tmp_path,
            tokenizer_folders["hf"],
            corpus=str(tmp_path / "large"),
            output=str(tmp_path / "small" / "shards"),
        )
        with pytest.raises(DiskFullError, match="disk is full"):
            tokenize.main(recipe)
        assert not (tmp_path / "small" / "shards").exists()
    finally:
        os.system(f"umount {tmp_path}/small")


def test_a_killed_worker_is_one_sentence(
    tmp_path: Path, corpus: Path, tokenizer_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode.ProcessPoolExecutor, "submit", _submit_exit)
    with pytest.raises(MeditronError, match=r"worker process was killed.*tokenize\.workers"):
        tokenize.main(make_recipe(tmp_path, tokenizer_folders["hf"]))


_submit = encode.ProcessPoolExecutor.submit


def _submit_exit(pool: encode.ProcessPoolExecutor, function: object, part: object) -> object:
    return _submit(pool, os._exit, 9)


@pytest.mark.slow
def test_a_document_of_50_megabytes(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> None:
    text = " ".join(make_texts(120_000, 6))
    text = (text * (50 * 2**20 // len(text) + 1))[: 50 * 2**20]
    make_corpus(tmp_path / "corpus", {"train/plos-00000": ["short", text, "short"]})
    for kind in ("hf", "sp"):
        shutil.rmtree(tmp_path / "shards", ignore_errors=True)
        tokenize.main(make_recipe(tmp_path, tokenizer_folders[kind]))
        assert len(IndexedDataset(str(tmp_path / "shards" / "train" / "plos"))) == 3
