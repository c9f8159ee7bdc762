"""GGUF files written here, as llama.cpp would write them, come back as the model they were made from."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers

from meditron.errors import InputError
from meditron.models.gguf import GGUFModel, unpermute

HIDDEN, HEADS, KV_HEADS, LAYERS, MLP, CONTEXT = 64, 4, 2, 2, 96, 128
HEAD_DIM = HIDDEN // HEADS
MERGES = ["a t", "h e", "Ġ he", "at s"]
TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *sorted(pre_tokenizers.ByteLevel.alphabet()),
    *(merge.replace(" ", "") for merge in MERGES),
]
_GGUF_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "post_attention_layernorm": "ffn_norm", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of the rows of a query or key projection."""
    rows = weights.shape[0]
    return weights.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(weights.shape)


def hf_model() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENS), hidden_size=HIDDEN, intermediate_size=MLP, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=CONTEXT,
            rms_norm_eps=1e-5, rope_parameters={"rope_theta": 100000.0, "rope_type": "default"},
            tie_word_embeddings=True,
        )
    ).eval()  # fmt: skip


def write_gguf(
    path: Path,
    model: torch.nn.Module,
    *,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    family: str = "llama",
    pre: str = "smollm",
    extra: str | None = None,
) -> Path:
    writer = gguf.GGUFWriter(path, family)
    writer.add_license("apache-2.0")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * 3 + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message.content }}{% endfor %}")
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            data = tensor.numpy()
            if "q_proj" in name or "k_proj" in name:
                data = permute(data, HEADS if "q_proj" in name else KV_HEADS)
            quantised = kind if data.ndim == 2 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(_name(name), gguf.quants.quantize(data, quantised), raw_dtype=quantised)
    if extra:
        writer.add_tensor(extra, np.ones(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _name(name: str) -> str:
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in fixed:
        return fixed[name]
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_GGUF_NAMES[rest.removesuffix('.weight')]}.weight"


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return hf_model()


@pytest.fixture(scope="module")
def file(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", model)


def test_the_shape_comes_from_the_metadata(file: Path) -> None:
    architecture = GGUFModel(file).architecture
    assert architecture.vocab_size == len(TOKENS)
    assert (architecture.num_attention_heads, architecture.num_key_value_heads) == (HEADS, KV_HEADS)
    assert (architecture.rope_theta, architecture.rms_norm_eps) == (100000.0, 1e-5)
    assert architecture.max_position_embeddings == CONTEXT
    assert architecture.tie_word_embeddings
    assert architecture.token_ids == {"bos_token_id": 1, "eos_token_id": 2}
    assert GGUFModel(file).license == "apache-2.0"


def test_float_weights_come_back_exactly(file: Path, model: torch.nn.Module) -> None:
    expected = model.state_dict()
    found = dict(GGUFModel(file).tensors())
    assert set(found) == set(expected) - {"lm_head.weight"}
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(("kind", "tolerance"), [("F16", 1e-3), ("Q8_0", 2e-3), ("Q4_1", 2e-2)])
def test_quantised_weights_come_back_within_their_step(
    kind: str, tolerance: float, model: torch.nn.Module, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "q.gguf", model, kind=gguf.GGMLQuantizationType[kind])
    expected = model.state_dict()
    for name, tensor in GGUFModel(path).tensors(torch.bfloat16 if kind == "F16" else None):
        assert (tensor.float() - expected[name]).abs().max() < tolerance, name


def test_unpermute_undoes_llama_cpps_order() -> None:
    weights = np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32)
    assert np.array_equal(unpermute(permute(weights, 4), 8), weights)


@pytest.fixture(scope="module")
def tokenizer(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    GGUFModel(file).save_tokenizer(folder)
    assert "message.content" in (folder / "chat_template.jinja").read_text()
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("text", ["BP <140/90 mmHg", "≥ 5 µg  and\n\ttabs", "the cats", "日本 é 🩺", ""])
def test_the_tokenizer_goes_round(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_tokenizer_merges_and_splits_digits(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("cats the").tokens == ["c", "ats", "Ġ", "t", "he"]
    assert tokenizer.encode("1234").tokens == ["1", "2", "3", "4"]
    assert tokenizer.encode("<|im_start|>x").tokens == ["<|im_start|>", "x"]


def test_what_cannot_be_converted_is_refused(model: torch.nn.Module, file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a 'gemma' model"):
        GGUFModel(write_gguf(tmp_path / "a.gguf", model, family="gemma"))
    with pytest.raises(InputError, match=r"tokenizer \(gpt2, tekken\) cannot be rebuilt"):
        GGUFModel(write_gguf(tmp_path / "b.gguf", model, pre="tekken")).save_tokenizer(tmp_path)
    with pytest.raises(InputError, match=r"blk\.0\.attn_q\.bias belongs to no plain Llama"):
        list(GGUFModel(write_gguf(tmp_path / "c.gguf", model, extra="blk.0.attn_q.bias")).tensors())
    with pytest.raises(InputError, match="rotary scaling"):
        GGUFModel(write_gguf(tmp_path / "d.gguf", model, extra="rope_freqs.weight"))
    with pytest.raises(InputError, match=r"nothing\.gguf does not exist"):
        GGUFModel(tmp_path / "nothing.gguf")
    for length in (3, 700, file.stat().st_size - 5000):
        (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:length])
        with pytest.raises(InputError, match=r"cut\.gguf: no whole GGUF file"):
            GGUFModel(tmp_path / "cut.gguf")
