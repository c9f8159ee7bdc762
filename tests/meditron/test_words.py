"""Encoding word by word gives the library's own ids, whatever the text."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from meditron import words
from meditron.tokenizers import HuggingFaceTokenizer
from meditron.words import KNOWN_PATTERNS, cuts_at_spaces

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
PLAIN_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
LLAMA3, QWEN = sorted(KNOWN_PATTERNS, key=len, reverse=True)
KINDS = {
    "gpt2": BYTES,
    "smollm2": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
    "llama3": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated"), PLAIN_BYTES]
    ),
    "qwen2": pre_tokenizers.Sequence([pre_tokenizers.Split(tokenizers.Regex(QWEN), "isolated"), PLAIN_BYTES]),
}
TRAINING = ["HbA1c 7.2 % was found, \n\n and   eGFR <60 mL/min; it's  the patient's BP 140/90 mmHg</s>"] * 5
ATOMS = [
    " ",
    "  ",
    "\n",
    "\t",
    "\u00a0",
    "\u2009",
    "\u200b",
    "\u0301",
    "e\u0301",
    "\u1e9b\u0323",
    "\x1c",
    "\x85",
    "\r\n",
]
ATOMS += [
    "the",
    "BP",
    "140",
    "'s",
    "'",
    "<",
    ".",
    "\u00b5g",
    "</s>",
    "\U0001f48a",
    "\u4e2d",
    "\u0967",
    "\u2028",
    "_",
]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> HuggingFaceTokenizer:
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = KINDS[request.param]
    library.decoder = decoders.ByteLevel()
    if request.param == "qwen2":
        library.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=380, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(TRAINING, trainer)
    folder = tmp_path_factory.mktemp(request.param)
    library.save(str(folder / "tokenizer.json"))
    return HuggingFaceTokenizer(folder)


@settings(max_examples=300, deadline=None)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(ATOMS) | st.text(max_size=3), max_size=30).map("".join), max_size=3
    )
)
def test_the_same_ids(tokenizer: HuggingFaceTokenizer, texts: list[str]) -> None:
    assert tokenizer._words is not None
    expected = [ids.tolist() for ids in tokenizer._encode_whole(texts)]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == expected
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == expected  # now from the table


def test_bounds_change_nothing(tokenizer: HuggingFaceTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(TRAINING) + " x" * 50
    expected = tokenizer._encode_whole([text])[0].tolist()
    for name, value in (("PIECE_CHARACTERS", 7), ("MAX_WORDS", 2), ("MAX_CHARACTERS", 5)):
        monkeypatch.setattr(words, name, value)
        assert tokenizer.encode_batch([text])[0].tolist() == expected


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}},
        {
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": ".+"},
                "behavior": "Isolated",
                "invert": False,
            }
        },
        {"added_tokens": [{"content": "a b", "special": False}]},
        {"model": {"type": "BPE", "dropout": 0.1}},
    ],
)
def test_other_tokenizers_encode_whole_texts(change: dict[str, object], tmp_path: Path) -> None:
    plain = {
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": {},
    }
    assert cuts_at_spaces(json.dumps(plain))
    assert not cuts_at_spaces(json.dumps({**plain, **change}))
