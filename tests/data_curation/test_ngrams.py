"""Words and runs of words as hashes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_curation import ngrams
from data_curation.ngrams import WORD, ngram_hashes, word_hashes

TEXTS = st.text(
    st.sampled_from("aAbß µΜ_9²<≥.-\n\u0130\u00a0é\U0001f600\U00010400\U00020000\ud800"), max_size=60
)


def folded(word: str) -> str:
    """Each character alone in lower case, where that is one character."""
    return "".join(low if len(low := letter.casefold()) == 1 else letter for letter in word)


@settings(deadline=None)  # the first one makes the tables
@given(TEXTS)
def test_equal_words_and_only_they_have_equal_hashes(text: str) -> None:
    words = [folded(word) for word in WORD.findall(text)]
    hashes = word_hashes(text).tolist()
    assert len(hashes) == len(words)
    for first, one in zip(words, hashes, strict=True):
        assert [one == other for other in hashes] == [first == second for second in words]


@settings(deadline=None)  # the first one makes the tables
@given(TEXTS)
def test_hashes_do_not_depend_on_what_is_around_a_word(text: str) -> None:
    alone = [word_hashes(word)[0] for word in WORD.findall(text)]
    assert word_hashes(f"before, {text} ").tolist()[1:] == alone


def test_long_texts_and_long_words_are_cut_into_blocks() -> None:
    assert ngrams.BLOCK_CHARACTERS == 2**16
    words = [f"w{number}" for number in range(40_000)] + ["x" * 200_000, "end"]
    hashes = word_hashes(" ".join(words))
    assert len(np.unique(hashes)) == len(words)
    assert hashes[-1] == word_hashes("end")[0]
    assert hashes[30_000] == word_hashes("W30000")[0]


def test_runs_of_words_have_the_hash_of_their_words() -> None:
    first, second = ngram_hashes(word_hashes("a b c d"), 3), ngram_hashes(word_hashes("x A, b c"), 3)
    assert first[0] == second[1]
    assert len(ngram_hashes(word_hashes("a b"), 3)) == 0
