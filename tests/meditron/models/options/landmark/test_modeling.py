"""The Hugging Face model: regular tokens in and out, within the window and beyond it, padded, generated."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from meditron.models.options.landmark.modeling_landmark import LandmarkLlamaForCausalLM
from meditron.models.options.landmark.slots import insert_every
from tests.meditron.models.options.landmark.conftest import LANDMARK, make_model, plain_copy, tokens
from tests.meditron.models.options.landmark.oracle import oracle_attention


def by_loops(
    module: Any, q: Tensor, k: Tensor, v: Tensor, _mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    return oracle_attention(q, k, v, 3, scaling).transpose(1, 2), None


AttentionInterface.register("landmark_by_loops", by_loops)


@torch.no_grad()
def logits(model: Any, ids: Tensor, **settings: Any) -> Tensor:
    return model(ids, **settings).logits


def test_within_the_window_it_is_a_llama_over_slots(model: LandmarkLlamaForCausalLM) -> None:
    ids = tokens(2, 17)
    plain = plain_copy(model)
    plain.set_attn_implementation("landmark_by_loops")
    slots = insert_every(ids, 3, LANDMARK)
    regular = torch.arange(slots.shape[1]) % 4 != 3
    torch.testing.assert_close(
        logits(model, ids, use_cache=False), logits(plain, slots)[:, regular], atol=1e-4, rtol=1e-4
    )


def test_an_input_of_one_block_is_plain_llama(model: LandmarkLlamaForCausalLM) -> None:
    ids = tokens(2, 3)
    torch.testing.assert_close(logits(model, ids), logits(plain_copy(model), ids), atol=1e-5, rtol=1e-5)


def test_the_loss_is_of_regular_tokens_alone(model: LandmarkLlamaForCausalLM) -> None:
    ids = tokens(2, 14)
    with torch.no_grad():
        out = model(ids, labels=ids, use_cache=False)
    expected = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(out.loss, expected)


def test_while_all_blocks_are_retrieved_memory_changes_nothing() -> None:
    model = make_model(landmark_top_k=5)
    ids = tokens(2, 17)
    whole = logits(model, ids, use_cache=False)
    cache, parts = None, []
    for part in ids.split([4, 1, 1, 1, 1, 3, 5, 1], dim=1):
        with torch.no_grad():
            out = model(part, past_key_values=cache, use_cache=True)
        cache, parts = out.past_key_values, [*parts, out.logits]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("length", "short", "shorter"), [(12, 5, 9), (60, 5, 9), (60, 21, 41)])
def test_padding_does_not_matter(
    model: LandmarkLlamaForCausalLM, side: str, length: int, short: int, shorter: int
) -> None:
    ids, mask = tokens(3, length), torch.ones(3, length, dtype=torch.long)
    rows = [slice(None), slice(short, None), slice(shorter, None)]
    if side == "right":
        rows = [slice(None), slice(-short), slice(-shorter)]
    for row, kept in enumerate(rows):
        mask[row] = 0
        mask[row, kept] = 1
    together = logits(model, ids * mask, attention_mask=mask)
    for row, kept in enumerate(rows):
        alone = logits(model, ids[row : row + 1, kept])
        torch.testing.assert_close(together[row, kept], alone[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("retrieval", ["head_token", "head", "token"])
def test_inputs_far_beyond_the_window_have_finite_losses(retrieval: str) -> None:
    model = make_model(landmark_retrieval=retrieval)
    ids = tokens(1, 400)
    with torch.no_grad():
        long = model(ids, labels=ids, use_cache=False)
    assert torch.isfinite(long.loss)
    assert long.logits.shape == (1, 400, 40)
    # The first block is retrieved by some of the second half, ten windows away.
    ids[0, 0] = ids[0, 0] % 38 + 1
    assert not torch.equal(logits(model, ids, use_cache=False)[0, 200:], long.logits[0, 200:])


def test_generate_puts_landmarks_in_and_never_says_one() -> None:
    model = make_model(landmark_top_k=5)
    ids = tokens(1, 7)
    with torch.no_grad():
        model.lm_head.weight[LANDMARK] = 10 * model.lm_head.weight[3]  # it would be said often
    out = model.generate(ids, max_new_tokens=9, do_sample=False)
    assert LANDMARK not in out[0].tolist()
    for length in range(7, 16):
        last = logits(model, out[:, :length], use_cache=False)[0, -1]
        last[LANDMARK] = -torch.inf
        assert out[0, length] == last.argmax()


@pytest.mark.parametrize("beams", [1, 3])
def test_rows_of_a_batch_are_generated_as_if_alone(model: LandmarkLlamaForCausalLM, beams: int) -> None:
    ids, mask = tokens(2, 50), torch.ones(2, 50, dtype=torch.long)
    mask[1, :19] = 0
    asked = {"max_new_tokens": 12, "do_sample": False, "num_beams": beams, "pad_token_id": 0}
    together = model.generate(ids * mask, attention_mask=mask, **asked)
    for row, start in enumerate((0, 19)):
        alone = model.generate(ids[row : row + 1, start:], **asked)
        assert together[row, 50:].tolist() == alone[0, 50 - start :].tolist()


def test_offloaded_blocks_give_the_same_answers() -> None:
    ids = tokens(2, 90)
    models = [make_model(landmark_retrieval="head", landmark_offload=value) for value in (False, True)]
    first, second = (logits(model, ids) for model in models)
    torch.testing.assert_close(first, second)


def test_gradients_reach_the_landmark_and_survive_recomputation() -> None:
    model, ids = make_model().train(), tokens(1, 14)
    model(ids, labels=ids).loss.backward()
    row = model.get_input_embeddings().weight.grad[LANDMARK]
    assert row.abs().sum() > 0
    again = make_model().train()
    again.activation_checkpointing_enable({"use_reentrant": False})
    again(ids, labels=ids).loss.backward()
    torch.testing.assert_close(again.get_input_embeddings().weight.grad[LANDMARK], row)


def test_without_retrieval_a_chunk_is_read_alone() -> None:
    model, ids = make_model(landmark_top_k=0), tokens(1, 60)
    chunk = (32 - 4) // 4 * 3  # tokens of the window without its empty first slot
    found = logits(model, ids, use_cache=False)
    for start in (0, chunk, 2 * chunk):
        alone = logits(model, ids[:, start : start + chunk], use_cache=False)
        torch.testing.assert_close(found[:, start : start + chunk], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"landmark_top_k": 6}, r"6 blocks do not fit landmark_window = 32, .* \(36 slots\)"),
        ({"landmark_top_k": -1}, "-1 blocks do not fit"),
        ({"landmark_retrieval": "heads"}, "'heads' is none of head_token, head, token"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_model(**settings)
    model = make_model()
    for name, value in settings.items():
        setattr(model.config, name, value)
    with pytest.raises(ValueError, match=sentence):
        model(tokens(1, 60))


def test_embeddings_instead_of_tokens_are_refused(model: LandmarkLlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="takes input_ids"):
        model(inputs_embeds=torch.zeros(1, 3, 32))
