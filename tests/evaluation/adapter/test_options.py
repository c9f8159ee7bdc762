"""Models with attention of their own: the answers are theirs, in any company."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.adapter.memory import MemoryScorer
from evaluation.adapter.score import Request, RowScorer
from evaluation.main import main
from meditron.config import (
    EvaluateConfig,
    PasskeyConfig,
    PerplexityConfig,
    Recipe,
    TaskConfig,
    VariantConfig,
    resolve,
)
from meditron.errors import InputError
from meditron.models.options.landmark.modeling_landmark import (
    LandmarkLlamaConfig,
    LandmarkLlamaForCausalLM,
    register,
)
from tests.evaluation.adapter.test_generate import GREEDY, SAMPLED, requests
from tests.evaluation.adapter.test_score import instances, make_lm
from tests.evaluation.conftest import write_corpus
from tests.finetune.conftest import make_tokenizer

LANDMARK = 320


@pytest.fixture(scope="module")
def landmark_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blocks of 7 tokens, and a window that all prompts are longer than."""
    folder = tmp_path_factory.mktemp("landmark")
    register()
    torch.manual_seed(0)
    config = LandmarkLlamaConfig(
        vocab_size=321,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
        landmark_block_size=7,
        landmark_window=32,
        landmark_top_k=1,
        landmark_token_id=LANDMARK,
    )
    LandmarkLlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer(folder, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return folder


@pytest.mark.parametrize("window", [32, 37])  # chunks of two blocks, and of two and a half
def test_likelihoods_are_those_of_the_model_at_any_batch_size(
    landmark_folder: Path, tmp_path: Path, window: int
) -> None:
    answers = []
    for batch_tokens in (16, 200, 4096):
        lm = make_lm(landmark_folder, tmp_path / str(batch_tokens), batch_tokens=batch_tokens)
        assert isinstance(lm.loaded.model, LandmarkLlamaForCausalLM)
        assert isinstance(lm._scorer(), MemoryScorer)
        lm.loaded.model.config.landmark_window = window
        answers.append([value for value, _ in lm.loglikelihood(instances()[:24])])
    expected = []
    for instance in instances()[:24]:
        prompt, answer = (lm.tok_encode(text) for text in (instance.args[0], "".join(instance.args)))
        with torch.inference_mode():
            logits = lm.loaded.model(torch.tensor([answer[:-1]])).logits[0].log_softmax(-1)
        expected.append(
            sum(float(logits[place - 1, answer[place]]) for place in range(len(prompt), len(answer)))
        )
    for own in answers:
        np.testing.assert_allclose(own, expected, atol=1e-4)


def test_what_inputs_share_is_read_once(landmark_folder: Path, tmp_path: Path) -> None:
    lm = make_lm(landmark_folder, tmp_path)
    asked = []
    for end in range(6):
        ids = np.arange(1, 120, dtype=np.int32)
        ids[100 + end :] += end + 1
        asked.append(Request(ids=ids, targets=np.array([7], np.int32)))
    asked.append(Request(ids=np.arange(2, 20, dtype=np.int32), targets=np.array([7], np.int32)))  # fits
    scores, costs = [], []
    for kind in (RowScorer, MemoryScorer):
        scorer, done = kind(lm.loaded.model, 500), []
        costs.append(scorer.plan(asked))
        found = dict(item for part in scorer.scores(done.append) for item in part)
        assert sum(done) == costs[-1]
        scores.append([found[number].logprob for number in range(len(asked))])
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)
    shared = lm.loaded.model.base_model.chunk_end(100, 119)
    assert 80 < shared <= 100
    assert costs == [6 * 119 + 18, shared + 6 * (119 - shared) + 18]


def test_it_writes_with_its_own_memory(landmark_folder: Path, tmp_path: Path) -> None:
    lm = make_lm(landmark_folder, tmp_path / "one")
    found = lm.generate_until(requests(GREEDY))
    ids = torch.tensor([lm.tok_encode(requests(GREEDY)[0].args[0])])
    written = lm.loaded.model.generate(
        ids, max_new_tokens=24, do_sample=False, eos_token_id=0, pad_token_id=0
    )
    assert LANDMARK not in written[0].tolist()
    assert found[0] == lm.tok_decode(written[0, ids.shape[1] :].tolist())
    sampled = lm.generate_until(requests(SAMPLED, repeats=2))
    assert sampled == make_lm(landmark_folder, tmp_path / "two").generate_until(requests(SAMPLED, repeats=2))


@pytest.fixture
def long_recipe(landmark_folder: Path, tmp_path: Path) -> Recipe:
    """Hidden facts and documents beyond the window of 32 slots, with one retrieved block and with none."""
    hidden = {text: PasskeyConfig(text=text, lengths=[90, 150], questions=2) for text in ("filler", "record")}
    recipe = Recipe(work_dir=str(tmp_path))
    recipe.evaluate = EvaluateConfig(
        models={"k1": str(landmark_folder)},
        variants={"k0": VariantConfig(model="k1", settings={"landmark_top_k": 0})},
        tasks={name: TaskConfig(format="passkey", passkey=own) for name, own in hidden.items()},
        protocols=["answer"],
        perplexity=PerplexityConfig(corpus=str(write_corpus(tmp_path / "corpus")), contexts=[16, 40]),
        device="cpu",
    )
    return resolve(recipe)


def test_long_inputs_are_compared_with_and_without_retrieval(long_recipe: Recipe) -> None:
    main(long_recipe)
    results = Path(str(long_recipe.evaluate.output))
    one, none = (json.loads((results / label / "results.json").read_text()) for label in ("k1", "k0"))
    for content in (one, none):
        assert [entry["task"] for entry in content["tasks"]] == ["filler", "record"]
        for entry in content["tasks"]:
            places = [(place["length"], place["depth"][0], place["n"]) for place in entry["by_place"]]
            assert places == [(90, 0.0, 1), (90, 0.8, 1), (150, 0.0, 1), (150, 0.8, 1)]
    inside, beyond = (
        [content["perplexity"][0]["by_context"][place]["loss"] for content in (one, none)] for place in (0, 1)
    )
    assert inside[0] == pytest.approx(inside[1], abs=1e-6)  # 16 tokens are read at once by both
    assert abs(beyond[0] - beyond[1]) > 1e-4


def test_a_variant_that_does_not_fit_the_window_is_refused(long_recipe: Recipe) -> None:
    long_recipe.evaluate.variants["k0"].settings = {"landmark_top_k": 2}
    with pytest.raises(
        InputError, match=r"evaluate\.variants\.k0: .*2 blocks do not fit landmark_window = 32"
    ):
        main(long_recipe)
