import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch

from meditron import cli
from meditron.config import GenerateConfig, Recipe, resolve
from meditron.errors import ConfigError, EnvironmentMissingError, InputError
from meditron.generating import Generator, find_model, main

TEMPLATE = (
    "{%- for message in messages -%}[{{ message['role'] }}] {{ message['content'] }}\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}[assistant] {%- endif -%}"
)
CONTEXT = 64


def make_model(folder: Path, template: str | None) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(
        ["BP <140/90 mmHg", "[user] [assistant] [system]"], 300, special_tokens=["<|end|>"]
    )
    folder.mkdir(parents=True)
    trained.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    if template:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("plain") / "model", None)


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("chatty") / "model", TEMPLATE)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    recipe = resolve(Recipe(work_dir=str(tmp_path / "run")))
    recipe.generate.max_new_tokens = 6
    return recipe


class Keyboard(io.StringIO):
    """Standard input that is a terminal."""

    def isatty(self) -> bool:
        return True


def typed(lines: list[str]) -> Callable[[str], str]:
    left: Iterator[str] = iter(lines)

    def read(prompt: str) -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return read


def test_the_most_likely_tokens_are_those_of_transformers(
    plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = Generator(plain, GenerateConfig(temperature=0, max_new_tokens=8), seed=1).answer("BP <140")
    tokenizer: Any = AutoTokenizer.from_pretrained(plain)
    model: Any = AutoModelForCausalLM.from_pretrained(plain)
    ids = tokenizer("BP <140", return_tensors="pt")["input_ids"]
    for _ in range(8):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    expected = tokenizer.decode(ids[0, -8:], skip_special_tokens=True)
    assert text == expected
    assert capsys.readouterr().out.strip() == expected.strip()


def test_one_seed_gives_one_text(plain: Path) -> None:
    texts = [
        Generator(plain, GenerateConfig(temperature=1.0, top_p=1.0, max_new_tokens=12), seed).answer("BP")
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_a_conversation_is_remembered_and_forgotten(chatty: Path) -> None:
    generator = Generator(chatty, GenerateConfig(system="Be brief.", max_new_tokens=2), seed=1)
    generator.answer("a")
    generator.answer("b")
    assert [message["role"] for message in generator.messages] == [
        "system",
        *["user", "assistant"] * 2,
    ]
    generator.restart()
    assert generator.messages == [{"role": "system", "content": "Be brief."}]


def test_the_template_is_used_as_asked(plain: Path, chatty: Path) -> None:
    assert Generator(chatty, GenerateConfig(), seed=1).chat
    assert not Generator(chatty, GenerateConfig(chat="never"), seed=1).chat
    assert not Generator(plain, GenerateConfig(), seed=1).chat
    with pytest.raises(ConfigError, match=r"generate\.chat: always, but the tokenizer of .* has no chat"):
        Generator(plain, GenerateConfig(chat="always"), seed=1)
    with pytest.raises(ConfigError, match=r"generate\.system: plain text has no system turn"):
        Generator(plain, GenerateConfig(system="Be brief."), seed=1)


def test_a_prompt_that_fills_the_context_is_refused_and_a_long_one_is_answered_shortly(plain: Path) -> None:
    generator = Generator(plain, GenerateConfig(temperature=0), seed=1)
    with pytest.raises(InputError, match=r"generate\.prompt: \d+ tokens fill the model's context of 64"):
        generator.answer("1 " * CONTEXT)
    generator.answer("1" * (CONTEXT - 2))  # room for two tokens, which is no error


def test_what_is_piped_in_is_the_prompt(
    recipe: Recipe, plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.generate.model = str(plain)
    recipe.generate.temperature = 0
    monkeypatch.setattr("sys.stdin", io.StringIO("BP <140\n"))
    main(recipe)
    piped = capsys.readouterr().out
    recipe.generate.prompt = "BP <140"
    main(recipe)
    assert capsys.readouterr().out == piped != ""


def test_an_empty_prompt_is_refused(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n"))
    with pytest.raises(ConfigError, match=r"generate\.prompt: is empty"):
        main(recipe)


def test_talking_goes_on_after_a_prompt_that_is_too_long(
    recipe: Recipe, chatty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.generate.model = str(chatty)
    monkeypatch.setattr("sys.stdin", Keyboard())
    monkeypatch.setattr("builtins.input", typed(["", "1 " * CONTEXT, "a", "/new", "b"]))
    main(recipe)
    err = capsys.readouterr().err
    assert "tokens fill the model's context" in err
    assert err.count("tokens/s") == 2


def test_the_latest_model_is_taken(recipe: Recipe, plain: Path) -> None:
    with pytest.raises(
        InputError, match=r"no model is there yet \(looked at .*finetune/model.*run/model.*tiny"
    ):
        find_model(recipe)
    recipe.model.base = str(plain)
    assert find_model(recipe) == plain
    for folder in (Path(str(recipe.export.output)), Path(str(recipe.finetune.run_dir)) / "model"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        assert find_model(recipe) == folder


def test_folders_that_cannot_be_loaded(recipe: Recipe, tmp_path: Path, plain: Path) -> None:
    recipe.generate.model = str(tmp_path)
    with pytest.raises(InputError, match=r"no model folder \(it has no config.json\)"):
        find_model(recipe)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded as a model"):
        Generator(tmp_path, GenerateConfig(), seed=1)


def test_devices(plain: Path) -> None:
    with pytest.raises(ConfigError, match="'gpu' is no device of torch"):
        Generator(plain, GenerateConfig(device="gpu"), seed=1)
    with pytest.raises(EnvironmentMissingError, match="GPUs are here"):
        Generator(plain, GenerateConfig(device="cuda:99"), seed=1)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"generate\.{field}"):
        GenerateConfig(**settings)


def test_the_verb(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--generate.model", str(plain), "--generate.prompt", "BP", "--generate.max_new_tokens", "3"]
    assert cli.main(["generate", "--work_dir", str(tmp_path), *arguments]) == 0
    assert capsys.readouterr().out.endswith("\n")
    assert cli.main(["generate", "--work_dir", str(tmp_path), "--generate.prompt", "BP"]) == 3
    assert "no model is there yet" in capsys.readouterr().err
