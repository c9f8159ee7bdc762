"""Log-likelihoods are those of lm-eval's own `hf` model, however they are batched."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from evaluation.adapter.cache import AnswerCache
from evaluation.adapter.lm import MeditronLM
from evaluation.adapter.score import Request, RowScorer, Scorer, TreeScorer
from evaluation.model import identify, load_model
from meditron.config import EvaluateConfig
from tests.evaluation.conftest import medqa_record

Answers = list[tuple[float, bool]]


def make_lm(folder: Path, cache: Path, **settings: Any) -> MeditronLM:
    batch_tokens = settings.pop("batch_tokens", None)
    config = EvaluateConfig(device="cpu", **settings)
    loaded = load_model("tiny", folder, identify(folder), config)
    return MeditronLM(loaded, AnswerCache(cache / "answers-0.jsonl", "tiny"), batch_tokens)


def instances() -> list[Instance]:
    """Two tasks whose prompts begin alike, with answers of one and of many tokens, and an empty prompt."""
    pairs = []
    for number in range(12):
        record = medqa_record(number)
        prompt = f"The following are questions.\n\nQuestion: {record['question']}\nAnswer:"
        pairs += [(prompt, f" {letter}") for letter in "ABCD"]
        pairs += [(prompt, f" {option}") for option in record["options"].values()]
    pairs.append(("", "What lowers HbA1c?"))
    return [
        Instance("loglikelihood", {}, pair, index, ("task", index, 1)) for index, pair in enumerate(pairs)
    ]


@pytest.fixture(scope="module")
def reference(model_folder: Path) -> Answers:
    hf = HFLM(pretrained=str(model_folder), device="cpu", dtype="float32", batch_size=4)
    answers: Answers = hf.loglikelihood(instances(), disable_tqdm=True)
    return answers


def assert_equal(found: Answers, expected: Answers) -> None:
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    np.testing.assert_allclose([value for value, _ in found], [value for value, _ in expected], atol=1e-4)


@pytest.mark.parametrize("batch_tokens", [16, 100, 4096])
def test_answers_are_those_of_lm_eval(
    model_folder: Path, tmp_path: Path, reference: Answers, batch_tokens: int
) -> None:
    lm = make_lm(model_folder, tmp_path, batch_tokens=batch_tokens)
    assert_equal(lm.loglikelihood(instances()), reference)
    assert lm.counters.computed == len({request.args for request in instances()})


def test_another_kind_of_model_is_computed_whole(
    model_folder: Path, tmp_path: Path, reference: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.adapter.lm.TREE_MODELS", ())
    lm = make_lm(model_folder, tmp_path, batch_tokens=100)
    assert isinstance(lm._scorer(), RowScorer)
    assert_equal(lm.loglikelihood(instances()), reference)


def test_long_prompts_lose_their_beginning_as_in_lm_eval(model_folder: Path, tmp_path: Path) -> None:
    hf = HFLM(pretrained=str(model_folder), device="cpu", dtype="float32", max_length=40)
    lm = make_lm(model_folder, tmp_path, max_length=40)
    assert_equal(lm.loglikelihood(instances()), hf.loglikelihood(instances(), disable_tqdm=True))
    assert len(lm.counters.cut_prompts) == 12


def collected(scorer: Scorer, requests: list[Request]) -> tuple[list[float], int, int]:
    total, done = scorer.plan(requests), []
    found = {index: score for scores in scorer.scores(done.append) for index, score in scores}
    return [found[index].logprob for index in range(len(requests))], total, sum(done)


def random_requests(generator: np.random.Generator) -> Iterator[Request]:
    for _ in range(3):
        head = generator.integers(3, 320, 20)
        for _ in range(8):
            prompt = np.concatenate([head, generator.integers(3, 320, generator.integers(1, 60))])
            for _ in range(4):
                answer = generator.integers(3, 6, generator.integers(1, 5))
                whole = np.concatenate([prompt, answer]).astype(np.int32)
                yield Request(ids=whole[:-1], targets=whole[-len(answer) :])


@pytest.mark.parametrize("batch_tokens", [16, 64, 1000])
def test_the_tree_computes_each_token_once(model_folder: Path, batch_tokens: int) -> None:
    model = load_model("tiny", model_folder, "", EvaluateConfig(device="cpu")).model
    requests = list(random_requests(np.random.default_rng(0)))
    rows, rows_total, rows_done = collected(RowScorer(model, 64), requests)
    tree, total, done = collected(TreeScorer(model, batch_tokens), requests)
    np.testing.assert_allclose(tree, rows, atol=1e-5)
    assert rows_done == rows_total
    assert done == total
    assert total < rows_total / 3


def test_the_same_option_is_chosen_at_any_batch_size(model_folder: Path, tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        chosen = []
        for batch_tokens in (16, 70, 4096):
            lm = make_lm(
                model_folder, tmp_path / f"{dtype}{batch_tokens}", dtype=dtype, batch_tokens=batch_tokens
            )
            values = np.array([value for value, _ in lm.loglikelihood(instances())[:-1]]).reshape(-1, 4)
            chosen.append(values.argmax(1).tolist())
        assert chosen[0] == chosen[1] == chosen[2], dtype


def test_a_killed_run_goes_on_with_what_it_had(
    model_folder: Path, tmp_path: Path, reference: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = make_lm(model_folder, tmp_path, batch_tokens=64)
    passes = 0
    original = TreeScorer._pass

    def killed(self: TreeScorer, *arguments: Any, **named: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes == 6:
            raise KeyboardInterrupt
        return original(self, *arguments, **named)

    monkeypatch.setattr(TreeScorer, "_pass", killed)
    with pytest.raises(KeyboardInterrupt):
        lm.loglikelihood(instances())
    monkeypatch.undo()
    file = tmp_path / "answers-0.jsonl"
    file.write_text(file.read_text() + '{"key": "cut sho')
    again = make_lm(model_folder, tmp_path, batch_tokens=64)
    assert_equal(again.loglikelihood(instances()), reference)
    assert 0 < again.counters.known < len(reference)
    assert again.counters.known + again.counters.computed == len(reference)
    third = make_lm(model_folder, tmp_path, batch_tokens=64)
    assert_equal(third.loglikelihood(instances()), reference)
    assert third.counters.computed == 0


def test_answers_of_another_model_or_number_format_are_not_taken(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "answers-0.jsonl", "model float32")
    cache.add([(cache.key("likelihood", b"12"), {"logprob": -1.0, "greedy": True})])
    assert AnswerCache(tmp_path / "answers-1.jsonl", "model float32").get(cache.key("likelihood", b"12"))
    other = AnswerCache(tmp_path / "answers-0.jsonl", "model bfloat16")
    assert other.get(other.key("likelihood", b"12")) is None
    assert cache.key("ab", "c") != cache.key("a", "bc")
    assert json.loads((tmp_path / "answers-0.jsonl").read_text())["value"]["logprob"] == -1.0


def test_bfloat16_is_computed_in_bfloat16(model_folder: Path, tmp_path: Path, reference: Answers) -> None:
    lm = make_lm(model_folder, tmp_path, dtype="bfloat16")
    assert lm.loaded.model.dtype == torch.bfloat16
    found = [value for value, _ in lm.loglikelihood(instances())]
    expected = np.array([value for value, _ in reference])
    assert not np.allclose(found, expected, atol=1e-6)
    assert np.abs(found - expected).mean() < 0.05 * np.abs(expected).mean()
