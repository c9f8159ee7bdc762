"""Generated answers are those of transformers, whatever else is in the batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from evaluation.adapter.generate import Prompt, Writer, _sample
from tests.evaluation.adapter.test_score import make_lm
from tests.evaluation.conftest import medqa_record

GREEDY = {"until": ["\n\nQuestion:"], "max_gen_toks": 24, "do_sample": False}
SAMPLED = {**GREEDY, "do_sample": True, "temperature": 0.8, "seed": 7}


def requests(settings: dict[str, Any], repeats: int = 1) -> list[Instance]:
    prompts = [f"Question: {medqa_record(number)['question'][: 20 + 9 * number]}" for number in range(7)]
    return [
        Instance("generate_until", {}, (prompt, dict(settings)), 0, ("task", index, repeats))
        for index, prompt in enumerate(prompts)
        for _ in range(repeats)
    ]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_greedy_answers_are_those_of_lm_eval(model_folder: Path, tmp_path: Path, batch: int) -> None:
    hf = HFLM(pretrained=str(model_folder), device="cpu", dtype="float32", batch_size=1)
    lm = make_lm(model_folder, tmp_path)
    lm.generation_batch = batch
    found = lm.generate_until(requests(GREEDY))
    assert found == hf.generate_until(requests(GREEDY), disable_tqdm=True)
    assert len(set(found)) > 1


def test_another_kind_of_model_writes_by_itself(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_lm(model_folder, tmp_path / "plain").generate_until(requests(GREEDY))
    monkeypatch.setattr("evaluation.adapter.lm.TREE_MODELS", ())
    lm = make_lm(model_folder, tmp_path / "alone")
    assert lm.generate_until(requests(GREEDY)) == plain
    sampled = lm.generate_until(requests(SAMPLED, repeats=2))
    again = make_lm(model_folder, tmp_path / "again").generate_until(requests(SAMPLED, repeats=2))
    assert sampled == again
    assert len(set(sampled)) == len(sampled)


def test_samples_depend_on_the_question_and_not_on_the_company(model_folder: Path, tmp_path: Path) -> None:
    answers = []
    for batch in (1, 5, 21):
        lm = make_lm(model_folder, tmp_path / str(batch))
        lm.generation_batch = batch
        answers.append(lm.generate_until(requests(SAMPLED, repeats=3)))
    assert answers[0] == answers[1] == answers[2]
    assert len(set(answers[0])) == len(answers[0])
    lm = make_lm(model_folder, tmp_path / "other")
    other = lm.generate_until(requests({**SAMPLED, "seed": 8}, repeats=3))
    assert not set(other) & set(answers[0])


def test_a_killed_generation_goes_on(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = make_lm(model_folder, tmp_path / "straight").generate_until(requests(SAMPLED, repeats=3))
    original, batches = Writer._write, 0

    def killed(self: Writer, rows: Any) -> None:
        nonlocal batches
        batches += 1
        if batches == 3:
            raise KeyboardInterrupt
        original(self, rows)

    monkeypatch.setattr(Writer, "_write", killed)
    lm = make_lm(model_folder, tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        lm.generate_until(requests(SAMPLED, repeats=3))
    monkeypatch.undo()
    again = make_lm(model_folder, tmp_path / "cut")
    assert again.generate_until(requests(SAMPLED, repeats=3)) == straight
    assert (again.counters.known, again.counters.computed) == (16, 5)


class Counting:
    """A model that says the next number, and never ends by itself."""

    device = torch.device("cpu")

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> Any:
        logits = torch.nn.functional.one_hot((input_ids[:, -1:] + 1) % 50, 50).float()
        return type("Output", (), {"logits": logits})()


def test_stops_and_ends_cut_the_answer() -> None:
    def prompt(start: int, max_tokens: int, *stops: str) -> Prompt:
        ids = np.array([start], np.int32)
        return Prompt(ids=ids, max_tokens=max_tokens, stops=stops, temperature=None, seed=0)

    writer = Writer(Counting(), lambda ids: " ".join(map(str, ids)), end_ids=[20], batch_size=4)
    prompts = [prompt(0, 3), prompt(0, 30, " 9 10"), prompt(15, 30, " 48"), prompt(21, 9, " 24", " 23")]
    texts = {index: text for batch in writer.write(prompts) for index, text in batch}
    assert texts == {0: "1 2 3", 1: "1 2 3 4 5 6 7 8", 2: "16 17 18 19", 3: "22"}


def test_sampling_follows_the_probabilities() -> None:
    logits = torch.log(torch.tensor([0.1, 0.2, 0.7]))
    generator = np.random.default_rng(1)
    drawn = np.bincount([_sample(logits, 1.0, generator) for _ in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(drawn, [0.1, 0.2, 0.7], atol=0.03)
    cold = [_sample(logits, 0.05, generator) for _ in range(200)]
    assert set(cold) == {2}
