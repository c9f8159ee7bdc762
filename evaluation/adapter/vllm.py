"""The same questions through vLLM, where it is installed: its scheduler and kernels instead of ours."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evaluation.adapter.generate import Prompt
from evaluation.adapter.score import Advance, Request, Score
from evaluation.model import LoadedModel, choose_dtype, load_tokenizer, longest
from meditron.config import EvaluateConfig
from meditron.errors import EnvironmentMissingError, InputError

PLAIN_MODELS = ("llama",)
"""Model types that vLLM computes as we do."""
BLOCK = 512
"""Answers between two writes to the cache."""


def load_engine(label: str, folder: Path, identity: str, config: EvaluateConfig) -> LoadedModel:
    """A model whose weights only vLLM holds, over all GPUs that it sees.

    Raises:
        EnvironmentMissingError: vLLM is not installed.
        InputError: the model has attention of its own, or its tokenizer cannot be read.
    """
    if find_spec("vllm") is None:
        raise EnvironmentMissingError(
            "evaluate.backend: vllm is not installed on this machine; install it or set the backend to torch"
        )
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    where = f"evaluate.models.{label}: {folder}"
    trusted = config.trust_remote_code
    settings = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
    if settings.model_type not in PLAIN_MODELS:
        raise InputError(
            f"{where}: vllm would compute a model of type {settings.model_type!r} in another way; "
            "set evaluate.backend to torch"
        )
    with torch.device("meta"):  # what lm-eval asks about the model, without its weights
        auto: Any = AutoModelForCausalLM
        model = auto.from_config(settings, trust_remote_code=trusted)
    limit = longest(model, config)
    dtype = choose_dtype(config, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    engine = import_module("vllm").LLM(
        model=str(folder),
        dtype=dtype,
        max_model_len=limit,
        tensor_parallel_size=max(torch.cuda.device_count(), 1),
        max_logprobs=1,
        trust_remote_code=trusted,
    )
    return LoadedModel(
        path=folder,
        identity=identity,
        model=model.eval(),
        tokenizer=load_tokenizer(where, folder),
        max_length=limit - 2,  # an answer's last token, and one that vLLM always writes
        dtype=dtype,
        engine=engine,
    )


class VllmScorer:
    """Log-likelihoods of answers as vLLM's log-probabilities of prompt tokens.

    Args:
        engine: `vllm.LLM`.
    """

    def __init__(self, engine: Any) -> None:  # noqa: ANN401 - vllm may be absent
        self._engine = engine

    def plan(self, requests: Sequence[Request]) -> int:
        """Take the requests."""
        self._requests = requests
        return sum(len(request.ids) for request in requests)

    def scores(self, advance: Advance) -> Iterator[list[tuple[int, Score]]]:
        """Neighbours first, so that their shared beginnings are still cached."""
        order = sorted(range(len(self._requests)), key=lambda index: self._requests[index].ids.tolist())
        settings = _sampling(temperature=0, max_tokens=1, prompt_logprobs=1, detokenize=False)
        for begin in range(0, len(order), BLOCK):
            block = order[begin : begin + BLOCK]
            prompts = [
                {"prompt_token_ids": [*request.ids.tolist(), int(request.targets[-1])]}
                for request in (self._requests[index] for index in block)
            ]
            outputs = self._engine.generate(prompts, settings, use_tqdm=False)
            yield [
                (index, _score(output.prompt_logprobs, self._requests[index].targets.tolist()))
                for index, output in zip(block, outputs, strict=True)
            ]
            advance(sum(len(self._requests[index].ids) for index in block))


def _score(logprobs: Sequence[Any], targets: Sequence[int]) -> Score:
    """An answer's score, from what each token of the prompt maps its own and the likeliest token to."""
    score = Score()
    for choices, target in zip(logprobs[-len(targets) :], targets, strict=True):
        score.logprob += float(choices[target].logprob)
        score.greedy &= choices[target].rank == 1
    return score


class VllmWriter:
    """Answers as vLLM writes them.

    Args:
        engine: `vllm.LLM`.
        end_ids: tokens that end an answer.
    """

    def __init__(self, engine: Any, end_ids: Sequence[int]) -> None:  # noqa: ANN401
        self._engine, self._end_ids = engine, list(end_ids)

    def write(self, prompts: Sequence[Prompt]) -> Iterator[list[tuple[int, str]]]:
        """After each block, index and text of its answers."""
        for begin in range(0, len(prompts), BLOCK):
            block = prompts[begin : begin + BLOCK]
            outputs = self._engine.generate(
                [{"prompt_token_ids": prompt.ids.tolist()} for prompt in block],
                [self._settings(prompt) for prompt in block],
                use_tqdm=False,
            )
            yield [(begin + place, output.outputs[0].text) for place, output in enumerate(outputs)]

    def _settings(self, prompt: Prompt) -> Any:  # noqa: ANN401
        return _sampling(
            temperature=prompt.temperature or 0,
            max_tokens=prompt.max_tokens,
            stop=list(prompt.stops),
            stop_token_ids=self._end_ids,
            seed=prompt.seed,
        )


def _sampling(**settings: Any) -> Any:  # noqa: ANN401
    return import_module("vllm").SamplingParams(**settings)
