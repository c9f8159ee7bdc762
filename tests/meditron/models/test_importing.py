"""Importing: clean folders that transformers loads, refusals, and what a second import does."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from meditron.config import ModelConfig, Recipe, resolve
from meditron.errors import ConfigError, InputError, ParityError
from meditron.manifest import read_manifest
from meditron.models.importing import import_model, main
from meditron.models.parity import was_compared
from tests.meditron.models.test_gguf import TOKENS, hf_model, write_gguf


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return hf_model()


@pytest.fixture(scope="module")
def gguf_file(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("source") / "small.gguf", model)


@pytest.fixture(scope="module")
def base(gguf_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("target") / "base"
    import_model(gguf_file, target, parity_check=False)
    return target


def test_an_imported_gguf_is_a_plain_llama_to_transformers(base: Path, model: torch.nn.Module) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(base)
    tokens = torch.arange(40)[None]
    assert type(loaded).__name__ == "LlamaForCausalLM"
    with torch.no_grad():
        assert torch.allclose(loaded(tokens).logits, model(tokens).logits, atol=1e-5)
    assert loaded.generation_config.eos_token_id == 2
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer("12 cats")["input_ids"] == [TOKENS.index(t) for t in ("1", "2", "Ġ", "c", "ats")]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def test_the_manifest_names_source_and_licence(base: Path) -> None:
    manifest = read_manifest(base, kind="model", check_files="full")
    assert manifest.licenses == {"small": "apache-2.0"}
    assert manifest.counts["vocab_size"] == len(TOKENS)
    assert "model.safetensors" in manifest.files


def test_a_second_import_keeps_the_folder_and_mends_a_damaged_one(base: Path, gguf_file: Path) -> None:
    before = (base / "manifest.json").read_bytes()
    import_model(gguf_file, base, parity_check=False)
    assert (base / "manifest.json").read_bytes() == before
    (base / "tokenizer.json").write_text("{}")
    import_model(gguf_file, base, parity_check=False)
    assert len((base / "tokenizer.json").read_text()) > 1000


def test_a_folder_is_copied_into_another_number_format(base: Path, tmp_path: Path) -> None:
    import_model(base, tmp_path / "copy", dtype="bfloat16", parity_check=False)
    copied, original = (load_file(f / "model.safetensors") for f in (tmp_path / "copy", base))
    assert copied.keys() == original.keys()
    assert all(torch.equal(tensor, original[name].bfloat16()) for name, tensor in copied.items())
    assert json.loads((tmp_path / "copy" / "config.json").read_text())["dtype"] == "bfloat16"
    assert (tmp_path / "copy" / "chat_template.jinja").is_file()
    assert read_manifest(tmp_path / "copy", kind="model").licenses == {"base": "apache-2.0"}


def foreign_folder(base: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((base / name).read_bytes())
    return folder


def test_derived_and_tied_tensors_are_left_out(base: Path, tmp_path: Path) -> None:
    folder = foreign_folder(base, tmp_path / "old")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    import_model(folder, tmp_path / "clean", parity_check=False)
    assert (
        load_file(tmp_path / "clean" / "model.safetensors").keys()
        == load_file(base / "model.safetensors").keys()
    )


def test_pickled_weights_are_refused(base: Path, tmp_path: Path) -> None:
    folder = foreign_folder(base, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickled \.bin files"):
        import_model(folder, tmp_path / "out", parity_check=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": None}, "1 tensors are missing, such as model.norm.weight"),
        ({"model.norm.weight": torch.ones(7)}, r"model\.norm\.weight has shape \(7,\)"),
        ({"model.extra.weight": torch.ones(7)}, "no plain Llama has it"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    change: dict[str, torch.Tensor | None], message: str, base: Path, tmp_path: Path
) -> None:
    folder = foreign_folder(base, tmp_path / "other")
    tensors = {**load_file(folder / "model.safetensors"), **change}
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "model.safetensors")
    with pytest.raises(InputError, match=message):
        import_model(folder, tmp_path / "out", parity_check=False)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_tokenizer_larger_than_the_embedding_is_refused(base: Path, tmp_path: Path) -> None:
    folder = foreign_folder(base, tmp_path / "large")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["extra"] = len(TOKENS)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match=f"out: its tokenizer has {len(TOKENS) + 1} ids, the embedding"):
        import_model(folder, tmp_path / "out", parity_check=False)


def test_targets_and_sources_that_make_no_sense(base: Path, gguf_file: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="no earlier import"):
        import_model(gguf_file, tmp_path, parity_check=False)
    with pytest.raises(InputError, match="are one folder"):
        import_model(base, base, parity_check=False)
    with pytest.raises(InputError, match=r"missing\.gguf does not exist"):
        import_model(tmp_path / "missing.gguf", tmp_path / "out", parity_check=False)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        import_model("some/model", tmp_path / "out", parity_check=False)
    with pytest.raises(ConfigError, match=r"model\.import_from"):
        main(resolve(Recipe()))


def test_a_failed_parity_check_leaves_nothing(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differ(folder: Path) -> float:
        raise ParityError(f"{folder}: the logits differ")

    monkeypatch.setattr("meditron.models.parity.check_parity", differ)
    recipe = resolve(Recipe(work_dir=str(tmp_path), model=ModelConfig(import_from=str(gguf_file))))
    with pytest.raises(ParityError, match=f"{tmp_path}/base: the logits differ"):
        main(recipe)
    assert list(tmp_path.iterdir()) == []


def test_the_parity_check_is_recorded(gguf_file: Path, tmp_path: Path) -> None:
    manifest = import_model(gguf_file, tmp_path / "base")
    assert 0 <= manifest.extra["max_logit_difference"] < 1e-4
    assert was_compared(tmp_path / "base")
    path = tmp_path / "base/manifest.json"
    path.write_text(path.read_text().replace(f'"{manifest.packages["torch"]}"', '"2.0.0"'))
    assert not was_compared(tmp_path / "base")  # other libraries may compute something else
    import_model(gguf_file, tmp_path / "unchecked", parity_check=False)
    assert not was_compared(tmp_path / "unchecked")
    assert not was_compared(tmp_path)
