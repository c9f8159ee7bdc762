"""A tiny Llama with landmarks: blocks of 3 tokens, a window of 6 blocks."""

import pytest
import torch
from transformers import LlamaForCausalLM

from meditron.models.options.landmark.modeling_landmark import LandmarkLlamaConfig, LandmarkLlamaForCausalLM

VOCABULARY, LANDMARK = 40, 39
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": None,
    "initializer_range": 0.3,
}
LANDMARKS = {
    "landmark_block_size": 3,
    "landmark_window": 32,
    "landmark_top_k": 2,
    "landmark_token_id": LANDMARK,
}


def make_model(**settings: object) -> LandmarkLlamaForCausalLM:
    torch.manual_seed(0)
    return LandmarkLlamaForCausalLM(LandmarkLlamaConfig(**{**SHAPE, **LANDMARKS, **settings})).eval()


def plain_copy(model: LandmarkLlamaForCausalLM) -> LlamaForCausalLM:
    """A model of transformers' own with the same weights."""
    from transformers import LlamaConfig

    plain = LlamaForCausalLM(LlamaConfig(**SHAPE))
    plain.load_state_dict(model.state_dict())
    return plain.eval()


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, LANDMARK, (rows, length), generator=generator)


@pytest.fixture(scope="session")
def model() -> LandmarkLlamaForCausalLM:
    return make_model()
