"""Asking a model questions through lm-eval: tasks from the YAML files in `tasks/`, run by its evaluator."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.adapter.lm import MeditronLM
from evaluation.questions import Loaded
from evaluation.quiet import quiet
from evaluation.task import QuestionTask, to_datasets
from meditron.config import TaskConfig

TASKS = Path(__file__).parent / "tasks"
HASHED = (
    "output_type",
    "description",
    "doc_to_text",
    "doc_to_choice",
    "doc_to_target",
    "target_delimiter",
    "fewshot_delimiter",
    "generation_kwargs",
)
"""Settings of an lm-eval task that decide what a model is asked and how its answer is read."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One task under one protocol."""

    name: str
    """Name of the task in the recipe."""
    protocol: str
    """Name of the protocol."""
    config: TaskConfig
    """How the questions are read."""
    loaded: Loaded
    """The questions."""
    task: QuestionTask
    """The lm-eval task."""

    @property
    def key(self) -> str:
        """Name of this pair."""
        return f"{self.name}-{self.protocol}"

    @property
    def metric(self) -> str:
        """lm-eval's name of the accuracy: acc_norm divides by the number of characters, acc does not."""
        return str(self.task.config.metric_list[0]["metric"])

    @property
    def protocol_hash(self) -> str:
        """First eight digits of the hash of prompt, parser and shots."""
        settings = {name: getattr(self.task.config, name) for name in HASHED}
        settings |= {"metric": self.metric, "shots": self.config.shots}
        return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]

    @property
    def protocol_text(self) -> str:
        """The protocol in one line."""
        text = {
            ("letter", "acc"): "options shown, likelihood of each option's letter",
            ("answer", "acc"): "likelihood of each option's text",
            ("answer", "acc_norm"): "options not shown, likelihood of each option's text per character",
        }[self.protocol, self.metric]
        return f"{text}, {self.config.shots} solved examples" if self.config.shots else f"{text}, no examples"


def build(tasks: Mapping[str, tuple[TaskConfig, Loaded]], protocols: list[str], seed: int) -> list[Asked]:
    """Every task under every protocol."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    asked = []
    for name, (config, loaded) in tasks.items():
        splits = to_datasets(loaded)
        for protocol in protocols:
            task = _load(manager, f"meditron_{config.format}_{protocol}", splits)
            task.set_config(key="task", value=f"{name}-{protocol}")
            task.set_config(key="num_fewshot", value=config.shots)
            if config.instruction is not None:
                head = f"{config.instruction}\n\n" if config.instruction else ""
                task.set_config(key="description", value=head)
            task.set_fewshot_seed(seed)
            asked.append(Asked(name=name, protocol=protocol, config=config, loaded=loaded, task=task))
    return asked


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


def ask(lm: MeditronLM, asked: list[Asked]) -> dict[str, list[dict[str, Any]]]:
    """Let lm-eval's evaluator run the tasks; its record of each question, by task and protocol."""
    from lm_eval.evaluator import evaluate

    tasks = {one.key: one.task for one in asked}
    with quiet():
        results = evaluate(lm, {"tasks": tasks, "groups": {}}, bootstrap_iters=0, log_samples=True)
    samples: dict[str, list[dict[str, Any]]] = results["samples"]
    return samples
