import random

import numpy as np
import pytest

from data_curation.dedup.find import EXACT, NEAR, Keeping
from data_curation.dedup.near import PERMUTATIONS, TOLERANCE, near_duplicates, shingles, signature
from data_curation.dedup.work import same_works, work_key


def words(seed: int, count: int = 400) -> list[str]:
    return [f"word{number}" for number in np.random.default_rng(seed).integers(0, 3000, count)]


def changed(text: list[str], share: float, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [f"new{generator.random()}" if generator.random() < share else word for word in text]


def jaccard(first: str, second: str) -> float:
    one, two = set(shingles(first).tolist()), set(shingles(second).tolist())
    return len(one & two) / len(one | two)


def test_signatures_estimate_the_jaccard_similarity() -> None:
    errors = []
    for seed in range(60):
        text = words(seed)
        first, second = " ".join(text), " ".join(changed(text, 0.03, seed))
        errors.append(np.mean(signature(first) == signature(second)) - jaccard(first, second))
    assert abs(np.mean(errors)) < 0.015
    assert np.std(errors) < 0.06


def test_case_and_punctuation_do_not_matter_and_short_texts_have_signatures() -> None:
    assert np.array_equal(signature("Blood pressure, 140!"), signature("blood PRESSURE 140"))
    assert not np.array_equal(signature("no fever"), signature("fever"))
    assert len(signature("")) == PERMUTATIONS


def test_near_duplicates_are_found_and_others_left() -> None:
    originals = [words(seed) for seed in range(60)]
    texts = [" ".join(text) for text in originals]
    copies = [" ".join(changed(text, 0.02, seed)) for seed, text in enumerate(originals)]
    signatures = np.stack([signature(text) for text in texts + copies])
    kept, alike = near_duplicates(signatures, np.arange(120), 0.8)
    expected = [n for n in range(60) if jaccard(texts[n], copies[n]) >= 0.8]
    found = [n - 60 for n in range(60, 120) if kept[n] != n]
    assert len(expected) > 20
    assert len(set(expected) & set(found)) >= 0.95 * len(expected)
    assert all(kept[n + 60] == n and alike[n + 60] >= 0.8 - TOLERANCE for n in found)
    assert np.array_equal(kept[:60], np.arange(60))


def test_a_document_goes_only_for_a_kept_one_that_it_resembles() -> None:
    chain = [words(1)]
    for step in range(4):  # each resembles its neighbour, the ends do not resemble each other
        chain.append(chain[-1][40:] + words(100 + step, 40))
    signatures = np.stack([signature(" ".join(text)) for text in chain])
    kept, _ = near_duplicates(signatures, np.arange(5), 0.78)
    for position, keeper in enumerate(kept):
        assert keeper == kept[keeper]
        assert np.mean(signatures[position] == signatures[keeper]) >= 0.7


def keys(*works: dict[str, str]) -> np.ndarray:
    joined = b"".join(work_key(work.get("title", ""), work) for work in works)
    return np.frombuffer(joined, dtype="<u8").reshape(len(works), -1)


@pytest.mark.parametrize(("longest", "expected"), [(True, [1, 1, 1, 3]), (False, [0, 0, 0, 3])])
def test_one_work_under_several_identifiers(longest: bool, expected: list[int]) -> None:
    works = keys(
        {"pmid": "7"}, {"pmid": "7", "doi": "https://doi.org/10.1/X"}, {"doi": "10.1/x"}, {"doi": "10.1/y"}
    )
    kept = same_works(works, np.arange(4), np.array([10, 90, 20, 5]), prefer_longest=longest)
    assert kept.tolist() == expected


def test_titles_join_articles_only_where_no_identifier_differs() -> None:
    title = "Aspirin for primary prevention of stroke"
    works = keys(
        {"title": title, "pmid": "1"}, {"title": title.upper() + ".", "pmcid": "PMC9"},
        {"title": title, "pmid": "2"},
        {"title": title}, {"title": "Introduction", "pmid": "3"}, {"title": "Introduction", "pmid": "4"},
    )  # fmt: skip
    kept = same_works(works, np.arange(6), np.ones(6, dtype=np.int64), prefer_longest=False)
    assert kept.tolist() == [0, 0, 2, 3, 4, 5]


def test_who_was_kept_for_another_and_goes_later_hands_it_on() -> None:
    keeping = Keeping(
        kept=np.arange(4),
        rule=np.zeros(4, dtype=np.uint8),
        similarity=np.ones(4),
        excluded=np.zeros(4, dtype=bool),
    )
    keeping.drop(np.array([0, 0, 2, 3]), EXACT)
    keeping.drop(np.array([2, 1, 2, 3]), NEAR)
    assert keeping.kept.tolist() == [2, 2, 2, 3]
    assert keeping.rule.tolist() == [3, 1, 0, 0]
    assert keeping.members.tolist() == [2, 3]
