"""The cache of answers: texts of every kind, what a kill left, and files of earlier versions."""

import json
from pathlib import Path

import pytest

from evaluation.adapter.cache import AnswerCache
from evaluation.adapter.lm import MeditronLM
from evaluation.model import load_model
from evaluation.results import write_lines
from evaluation.team import Team
from meditron.config import EvaluateConfig
from meditron.errors import InputError
from tests.evaluation.adapter.test_score import instances

TEXTS = ["a\u2028b", "a\u2029b", "a\x85b", "a\x0b\x0c\x1cb", "a\r\nb", "½ \udc80 lone surrogate", "plain"]


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_is_found_again(tmp_path: Path, text: str) -> None:
    cache = AnswerCache(tmp_path / "answers-0.jsonl", "model")
    cache.add([("one", {"text": text}), ("two", {"text": "after it"})])
    for rank in (0, 1):  # this process started again, and another one
        again = AnswerCache(tmp_path / f"answers-{rank}.jsonl", "model")
        assert again.get("one") == {"text": text}
        assert again.get("two") == {"text": "after it"}


def test_files_of_earlier_versions_are_read_and_go_on_after_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "answers-0.jsonl"
    lines = [{"key": str(number), "value": {"text": text}} for number, text in enumerate(TEXTS[:4])]
    whole = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    path.write_bytes(whole + '{"key": "cut", "value": {"text": "½'.encode()[:-1])
    cache = AnswerCache(path, "model")
    assert [cache.get(str(number)) for number in range(4)] == [line["value"] for line in lines]
    assert cache.get("cut") is None
    cache.add([("cut", {"text": "½"})])
    assert AnswerCache(path, "model").get("cut") == {"text": "½"}


def test_keys_stay_what_they_were(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "answers-0.jsonl", "1 model float32")
    assert cache.key("likelihood", b"\x01\x02") == "31a3e2f9af869ef0c1936397a875b678"


def test_samples_hold_every_text(tmp_path: Path) -> None:
    write_lines(tmp_path / "samples.jsonl", [{"outputs": [text]} for text in TEXTS])
    lines = (tmp_path / "samples.jsonl").read_bytes().decode().removesuffix("\n").split("\n")
    assert [json.loads(line)["outputs"][0] for line in lines] == TEXTS


def test_answers_that_another_process_left_elsewhere_are_missed_by_name(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Team, "wait", lambda self: None)
    loaded = load_model("tiny", model_folder, "", EvaluateConfig(device="cpu"))
    lm = MeditronLM(loaded, AnswerCache(tmp_path / "a.jsonl", "tiny"), team=Team(rank=0, size=2))
    with pytest.raises(InputError, match=r"lacks \d+ answers that other processes computed; put"):
        lm.loglikelihood(instances())
