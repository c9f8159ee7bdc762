"""`meditron generate`: what a model makes of a prompt, printed as it comes; a conversation on a terminal."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meditron.config import Recipe
from meditron.config.generate import GenerateConfig
from meditron.errors import ConfigError, EnvironmentMissingError, InputError
from meditron.progress import console

if TYPE_CHECKING:
    import torch

Message = dict[str, str]
NEW_CONVERSATION = "/new"


def main(recipe: Recipe) -> None:
    """Answer the recipe's prompt, what is piped in, or one line after the other on a terminal.

    Raises:
        ConfigError: there is no prompt, or a chat template is asked for and the tokenizer has none.
        InputError: there is no model, or the prompt is longer than its context.
        EnvironmentMissingError: this machine does not have `generate.device`.
    """
    config = recipe.generate
    prompt = config.prompt
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().rstrip("\n")
    if prompt is not None and not prompt.strip():
        raise ConfigError("generate.prompt: is empty; give a text, or leave it out to talk on a terminal")
    generator = Generator(find_model(recipe), config, recipe.seed if config.seed is None else config.seed)
    if prompt is not None:
        generator.answer(prompt)
    else:
        talk(generator)


def find_model(recipe: Recipe) -> Path:
    """The folder to load: the one that is named, else the latest that the recipe's stages left.

    Raises:
        InputError: it is no model folder, or none of them is there.
    """
    named = recipe.generate.model
    if named is not None:
        if not (Path(named) / "config.json").is_file():
            raise InputError(f"generate.model: {named} is no model folder (it has no config.json)")
        return Path(named)
    folders = [
        Path(str(recipe.finetune.run_dir)) / "model",
        Path(str(recipe.export.output)),
        Path(recipe.model.base),
    ]
    for folder in folders:
        if (folder / "config.json").is_file():
            return folder
    looked_at = ", ".join(map(str, folders))
    raise InputError(
        f"generate: no model is there yet (looked at {looked_at}); give --generate.model a folder"
    )


class Generator:
    """A model with its tokenizer, and the conversation so far.

    Args:
        folder: Hugging Face folder.
        config: how to generate.
        seed: seed of the sampling.

    Raises:
        InputError: the folder cannot be loaded.
        ConfigError: `generate.chat` or `generate.system` needs a chat template that the tokenizer lacks.
        EnvironmentMissingError: this machine does not have `generate.device`.
    """

    def __init__(self, folder: Path, config: GenerateConfig, seed: int) -> None:
        import torch

        self._config = config
        device = _device(config.device)
        self._tokenizer, self._model = _load(folder, config, device)
        self.chat = _use_chat(folder, config, self._tokenizer)
        """Whether prompts are turns of a conversation."""
        self.messages: list[Message] = []
        """The conversation so far."""
        self.restart()
        torch.manual_seed(seed)
        console().print(f"{folder}, {'chat' if self.chat else 'plain text'}", style="dim", markup=False)

    def restart(self) -> None:
        """Forget the conversation."""
        system = self._config.system
        self.messages = [{"role": "system", "content": system}] if system else []

    def answer(self, prompt: str) -> str:
        """Print and return what the model makes of a prompt; in a conversation, it remembers both.

        Raises:
            InputError: the prompt, with the conversation before it, is longer than the model's context.
        """
        messages = [*self.messages, {"role": "user", "content": prompt}]
        ids_1S = self._encode(prompt, messages)
        started = time.perf_counter()
        text, tokens = self._generate(ids_1S)
        rate = tokens / (time.perf_counter() - started)
        console().print(f"{tokens} tokens, {rate:.1f} tokens/s", style="dim")
        if self.chat:
            self.messages = [*messages, {"role": "assistant", "content": text}]
        return text

    def _encode(self, prompt: str, messages: list[Message]) -> "torch.Tensor":
        if self.chat:
            encoded = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        else:
            encoded = self._tokenizer(prompt, return_tensors="pt")
        ids_1S: torch.Tensor = encoded["input_ids"]
        limit = self._model.config.max_position_embeddings
        if ids_1S.shape[1] >= limit:
            what = "the conversation" if self.messages else "generate.prompt"
            raise InputError(
                f"{what}: {ids_1S.shape[1]:,} tokens fill the model's context of {limit:,}; shorten it"
            )
        return ids_1S.to(self._model.device)

    def _generate(self, ids_1S: "torch.Tensor") -> tuple[str, int]:
        """The new text, and how many tokens it has."""
        import torch
        from transformers import TextStreamer

        config = self._config
        prompt_tokens = ids_1S.shape[1]
        room = self._model.config.max_position_embeddings - prompt_tokens
        sampling = {"temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
        out_1S = self._model.generate(
            ids_1S,
            attention_mask=torch.ones_like(ids_1S),
            max_new_tokens=min(config.max_new_tokens, room),
            do_sample=config.temperature > 0,
            **(sampling if config.temperature > 0 else dict.fromkeys(sampling)),
            pad_token_id=_padding(self._tokenizer),
            streamer=TextStreamer(self._tokenizer, skip_prompt=True, skip_special_tokens=True),
        )
        new = out_1S[0, prompt_tokens:]
        return self._tokenizer.decode(new, skip_special_tokens=True), len(new)


def talk(generator: Generator) -> None:
    """Answer one line after the other until the input ends."""
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() a history and line editing

    forget = f", {NEW_CONVERSATION} for a new conversation" if generator.chat else ""
    console().print(f"one prompt a line{forget}; Ctrl-C stops an answer, Ctrl-D ends", style="dim")
    for line in _lines():
        if line == NEW_CONVERSATION:
            generator.restart()
            continue
        try:
            generator.answer(line)
        except InputError as error:  # a conversation that is too long can be begun anew
            console().print(f"meditron: {error}", markup=False, soft_wrap=True)
        except KeyboardInterrupt:
            print()


def _lines() -> Iterator[str]:
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        if line:
            yield line


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"generate.device: {name!r} is no device of torch; give cpu, cuda or cuda:1"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EnvironmentMissingError(
            f"generate.device: {name}, but {torch.cuda.device_count()} GPUs are here; give cpu or auto"
        )
    return device


def _load(folder: Path, config: GenerateConfig, device: "torch.device") -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from meditron.models.options import register_with_transformers

    register_with_transformers()
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if device.type == "cpu" else "bfloat16"
    shared: dict[str, Any] = {"local_files_only": True, "trust_remote_code": config.trust_remote_code}
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), **shared)
            model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, **shared)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(f"{folder}: cannot be loaded as a model ({' '.join(str(error).split())})") from error
    return tokenizer, model.to(device).eval()


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _use_chat(folder: Path, config: GenerateConfig, tokenizer: Any) -> bool:  # noqa: ANN401
    has_template = bool(tokenizer.chat_template)
    if config.chat == "always" and not has_template:
        raise ConfigError(
            f"generate.chat: always, but the tokenizer of {folder} has no chat template; leave it at auto"
        )
    chat = config.chat != "never" and has_template
    if config.system and not chat:
        raise ConfigError("generate.system: plain text has no system turn; write it into generate.prompt")
    return chat


def _padding(tokenizer: Any) -> int | None:  # noqa: ANN401
    padding: int | None = tokenizer.pad_token_id
    end: int | None = tokenizer.eos_token_id
    return end if padding is None else padding
