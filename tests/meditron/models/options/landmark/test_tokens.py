"""The landmark among tokens: slots, labels, the tokenizer's files."""

import json
from pathlib import Path

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from meditron.errors import InputError
from meditron.models.options.landmark.config import LandmarkConfig
from meditron.models.options.landmark.slots import insert_every, lay_out
from meditron.models.options.landmark.tokens import add_landmark
from tests.meditron.models.options.landmark.conftest import tokens


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_landmark_has_no_loss_and_is_no_target() -> None:
    option = LandmarkConfig(block_size=3, window=28, token_id=99)
    window = torch.arange(1, 10)[None, None]  # nine tokens: eight inputs, eight labels
    inputs, labels = option.insert(window[..., :-1], window[..., 1:], -100)
    assert inputs[0, 0].tolist() == [1, 2, 3, 99, 4, 5, 6, 99, 7, 8]
    assert labels[0, 0].tolist() == [2, 3, 4, -100, 5, 6, 7, -100, 8, 9]


@pytest.mark.parametrize("tails", [[0, 0], [2, 1]])
def test_slots_continue_each_rows_unfinished_block(tails: list[int]) -> None:
    ids = tokens(2, 8)
    mask = torch.ones_like(ids)
    mask[0, 3:5] = 0  # a gap
    slots = lay_out(ids, mask, torch.tensor(tails), 3, 99)
    for row, tail in enumerate(tails):
        regular = ids[row][mask[row].bool()]
        before = torch.zeros(tail, dtype=torch.long)
        expected = insert_every(torch.cat([before, regular]), 3, 99)[tail:]
        assert slots.ids[row, : slots.counts[row]].tolist() == expected.tolist()
        found = slots.ids[row].gather(0, slots.slot_of[row][mask[row].bool()])
        assert found.tolist() == regular.tolist()


def test_reserved_tokens_fill_the_gap_to_the_embeddings_end(folder: Path) -> None:
    add_landmark(folder, "<landmark>", 5)
    add_landmark(folder, "<landmark>", 5)  # once more changes nothing
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids(["a", "<reserved_3>", "<reserved_4>", "<landmark>"]) == [
        1,
        3,
        4,
        5,
    ]
    assert tokenizer.decode([1, 5, 2], skip_special_tokens=True).split() == ["a", "b"]


def test_its_class_is_stated_for_who_does_not_know_the_model(folder: Path) -> None:
    LandmarkConfig(block_size=3, window=28, token_id=3).save_tokens(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.parametrize(("token", "number"), [("<landmark>", 2), ("b", 3)])
def test_an_id_that_is_taken_is_refused(folder: Path, token: str, number: int) -> None:
    with pytest.raises(InputError, match="use the tokenizer that"):
        add_landmark(folder, token, number)


def test_a_damaged_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer.json: not a tokenizer.json"):
        add_landmark(folder, "<landmark>", 3)


def test_a_sentencepiece_model_gets_it_too(tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf", reason="transformers reads SentencePiece models with protobuf")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("blood pressure and heart rate\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "tokenizer"), vocab_size=40, model_type="bpe",
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    size = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model")).get_piece_size()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    add_landmark(tmp_path, "<landmark>", size)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.convert_tokens_to_ids("<landmark>") == size
    assert "blood" in tokenizer.decode(tokenizer("blood pressure").input_ids)
