"""Asking a model questions through lm-eval: tasks from the YAML files in `tasks/`, run by its evaluator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.adapter.lm import MeditronLM
from evaluation.protocols import ASKED_BY, ROTATED, Protocol, Shots, protocol_hash
from evaluation.questions import Loaded
from evaluation.quiet import quiet
from evaluation.task import QuestionTask, to_datasets
from meditron.config import EvaluateConfig, GenerationConfig, TaskConfig
from meditron.errors import ConfigError

TASKS = Path(__file__).parent / "tasks"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One task under one protocol, with the examples of one seed."""

    name: str
    """Name of the task in the recipe."""
    protocol: Protocol
    """The way of asking."""
    seed: int
    """Seed of the examples and of sampling."""
    is_first_seed: bool
    """Whether it is the first of the task's seeds."""
    rotation: int = 0
    """Places that the options are moved up by."""
    config: TaskConfig
    """How the questions are read."""
    generation: GenerationConfig
    """How answers are generated."""
    loaded: Loaded
    """The questions."""
    task: QuestionTask
    """The lm-eval task."""

    @property
    def key(self) -> str:
        """Name of it all."""
        seed = "" if self.is_first_seed else f"-seed{self.seed}"
        order = f"-order{self.rotation + 1}" if self.rotation else ""
        return f"{self.name}-{self.protocol.name}{seed}{order}"

    @property
    def shots(self) -> int:
        """Solved examples before each question."""
        return self.protocol.shots(self.config.shots)

    @property
    def metric(self) -> str:
        """lm-eval's name of the accuracy: acc_norm divides by the number of characters, acc does not."""
        return str(self.task.config.metric_list[0]["metric"])

    @property
    def protocol_hash(self) -> str:
        """First eight digits of the hash of prompt, parser and shots, as far as no model changes them."""
        return self.hashed(None)

    def hashed(self, chat_template: Any) -> str:  # noqa: ANN401 - a template, or several by name
        """The same for a model with a chat template."""
        seeds = self.config.seeds or [self.seed]
        shots = Shots(count=self.shots, pool=self.loaded.pool_hash, seeds=seeds)
        return protocol_hash(self.task.config, self.protocol, self.metric, shots, chat_template)

    @property
    def protocol_text(self) -> str:
        """The protocol in one line."""
        return self.protocol.text(self.metric, self.shots, self.generation)


def build(tasks: Mapping[str, tuple[TaskConfig, Loaded]], config: EvaluateConfig, seed: int) -> list[Asked]:
    """Every task under every protocol, once for each seed of its examples, and each order of its options.

    Raises:
        ConfigError: a task is asked by none of the protocols.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    asked = []
    for name, (task_config, loaded) in tasks.items():
        for protocol in _protocols(name, task_config, config.protocols):
            for own_seed, rotation in _versions(task_config, protocol, loaded, seed):
                splits = to_datasets(loaded.rotated(rotation))
                one = Asked(
                    name=name,
                    protocol=protocol,
                    seed=own_seed,
                    is_first_seed=own_seed == (task_config.seeds or [own_seed])[0],
                    rotation=rotation,
                    config=task_config,
                    generation=config.generation,
                    loaded=loaded,
                    task=_load(manager, f"meditron_{task_config.format}_{protocol.kind}", splits),
                )
                _configure(one)
                asked.append(one)
    return asked


def _protocols(name: str, config: TaskConfig, wanted: Sequence[str]) -> list[Protocol]:
    """Those of the wanted protocols that a task can be asked by."""
    protocols = [Protocol(name=kind) for kind in wanted]
    usable = ASKED_BY.get(config.format)
    own = [protocol for protocol in protocols if usable is None or protocol.kind in usable]
    if not own:
        raise ConfigError(
            f"evaluate.tasks.{name}: format {config.format!r} is asked by {' and '.join(usable or ())} "
            "only; add one to evaluate.protocols"
        )
    return own


def _versions(config: TaskConfig, protocol: Protocol, loaded: Loaded, seed: int) -> list[tuple[int, int]]:
    """Seed of the examples and rotation of the options: every seed as it is, the first one in every order."""
    seeds = config.seeds if config.seeds and protocol.shots(config.shots) else [seed]
    orders = 1
    if config.rotate_options and protocol.kind in ROTATED:
        orders = max(len(question.options) for question in loaded.questions)
    rotated = [(seeds[0], rotation) for rotation in range(1, orders)]
    return [(own_seed, 0) for own_seed in seeds] + rotated


def _load(manager: Any, name: str, splits: Mapping[str, Any]) -> QuestionTask:  # noqa: ANN401
    """The task of a YAML file, on questions that are read already."""

    def questions(**_: Any) -> Mapping[str, Any]:  # noqa: ANN401
        return splits

    # Settings of a task by name can only be replaced for a member of a group.
    group = {"group": "meditron", "task": [{"task": name, "custom_dataset": questions}]}
    with quiet():
        task = manager.load([group])["tasks"][name]
    assert isinstance(task, QuestionTask)
    return task


def _configure(one: Asked) -> None:
    """Give the lm-eval task what the recipe says about it."""
    settings = {"task": one.key, "num_fewshot": one.shots}
    settings |= one.protocol.settings(one.generation, one.seed)
    instruction = one.config.instruction
    if instruction is not None:
        settings["description"] = f"{instruction}\n\n" if instruction else ""
    for key, value in settings.items():
        one.task.set_config(key=key, value=value)
    one.task.set_fewshot_seed(one.seed)


def ask(lm: MeditronLM, asked: Sequence[Asked]) -> dict[str, list[dict[str, Any]]]:
    """Let lm-eval's evaluator run the tasks; its record of each question, by `key`.

    Tasks in the chat template are left out for a model without one.
    """
    from lm_eval.evaluator import evaluate

    samples: dict[str, list[dict[str, Any]]] = {}
    for chat in (False, True):
        tasks = {one.key: one.task for one in asked if one.protocol.chat == chat}
        if not tasks or (chat and not lm.tokenizer.chat_template):
            continue
        with quiet():
            results = evaluate(
                lm,
                {"tasks": tasks, "groups": {}},
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
            )
        samples |= results["samples"]
    return samples
