"""The vLLM backend against a stand-in with vLLM's interface that computes with transformers."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluation.adapter.cache import AnswerCache
from evaluation.adapter.lm import MeditronLM
from evaluation.adapter.vllm import load_engine
from evaluation.main import main
from meditron.config import EvaluateConfig, Recipe
from meditron.errors import ConfigError, EnvironmentMissingError
from tests.evaluation.adapter.test_generate import GREEDY, requests
from tests.evaluation.adapter.test_score import assert_equal, instances


class StandIn:
    """`vllm.LLM` as far as the backend uses it."""

    def __init__(self, *, model: str, dtype: str, max_model_len: int, **_: Any) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.limit = max_model_len

    def generate(self, prompts: Sequence[Any], settings: Any, *, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        each = settings if isinstance(settings, list) else [settings] * len(prompts)
        return [self._one(prompt["prompt_token_ids"], own) for prompt, own in zip(prompts, each, strict=True)]

    @torch.inference_mode()
    def _one(self, ids: list[int], settings: Any) -> Any:
        assert len(ids) + 1 <= self.limit
        if getattr(settings, "prompt_logprobs", None):
            logits = self.model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            own = [
                {token: SimpleNamespace(logprob=float(row[token]), rank=1 + int((row > row[token]).sum()))}
                for row, token in zip(logits, ids[1:], strict=True)
            ]
            return SimpleNamespace(prompt_logprobs=[None, *own])
        ends = settings.stop_token_ids
        written = self.model.generate(
            torch.tensor([ids]), max_new_tokens=settings.max_tokens, do_sample=False, eos_token_id=ends
        )[0, len(ids) :].tolist()
        kept = [token for token in written if token not in ends]
        text = self.tokenizer.decode(kept, skip_special_tokens=True)
        for stop in settings.stop:
            text = text.split(stop)[0]
        return SimpleNamespace(outputs=[SimpleNamespace(text=text)])


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("vllm")
    module.LLM, module.SamplingParams = StandIn, SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr("evaluation.adapter.vllm.find_spec", lambda name: name)


@pytest.mark.usefixtures("vllm")
def test_answers_are_those_of_lm_eval(model_folder: Path, tmp_path: Path) -> None:
    loaded = load_engine("tiny", model_folder, "", EvaluateConfig(device="cpu", backend="vllm"))
    assert loaded.model.device.type == "meta"
    lm = MeditronLM(loaded, AnswerCache(tmp_path / "answers-0.jsonl", "tiny"))
    hf = HFLM(pretrained=str(model_folder), device="cpu", dtype="float32", batch_size=4)
    assert_equal(lm.loglikelihood(instances()), hf.loglikelihood(instances(), disable_tqdm=True))
    assert lm.generate_until(requests(GREEDY)) == hf.generate_until(requests(GREEDY), disable_tqdm=True)
    computed = lm.counters.computed
    lm.loglikelihood(instances())
    assert lm.counters.computed == computed


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("trusted", [True, False])
def test_code_of_the_model_is_run_where_it_is_trusted(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(sys.modules["vllm"], "LLM", lambda **settings: given.update(settings))
    load_engine("tiny", model_folder, "", EvaluateConfig(backend="vllm", trust_remote_code=trusted))
    assert given["trust_remote_code"] is trusted


@pytest.mark.usefixtures("vllm")
def test_the_longest_prompt_leaves_room(model_folder: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(device="cpu", backend="vllm", max_length=40)
    lm = MeditronLM(load_engine("tiny", model_folder, "", config), AnswerCache(tmp_path / "a.jsonl", "tiny"))
    lm.loglikelihood(instances())
    assert len(lm.counters.cut_prompts) == 12


@pytest.mark.usefixtures("vllm")
def test_the_whole_stage(recipe: Recipe) -> None:
    recipe.evaluate.backend = "vllm"
    recipe.evaluate.protocols = ["letter"]
    main(recipe)
    assert list(Path(f"{recipe.evaluate.output}.cache").glob("*-float32-vllm/answers-0.jsonl"))


def test_what_is_refused(model_folder: Path) -> None:
    with pytest.raises(EnvironmentMissingError, match="vllm is not installed on this machine"):
        load_engine("tiny", model_folder, "", EvaluateConfig(backend="vllm"))
    with pytest.raises(ConfigError, match=r"evaluate\.nproc: 2 must be 1 with backend vllm"):
        EvaluateConfig(backend="vllm", nproc=2)
