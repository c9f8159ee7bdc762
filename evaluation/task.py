"""Our questions as lm-eval tasks: the class that the YAML files in `tasks/` name, and its examples."""

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import jinja2
import lm_eval.utils
from lm_eval.api.filter import Filter
from lm_eval.api.registry import register_filter
from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import ConfigurableTask

from evaluation.questions import Loaded, Question, load_questions
from meditron.config import ColumnsConfig, PasskeyConfig, PerplexityConfig, TaskConfig
from meditron.errors import ConfigError

DEFAULT_SEED = 1234
Doc = dict[str, Any]


class QuestionTask(ConfigurableTask):  # type: ignore[misc]
    """A task whose solved examples depend on the question: of its subject, and never the question itself."""

    def __init__(self, config: Mapping[str, Any], **others: Any) -> None:  # noqa: ANN401
        super().__init__(config={key: item for key, item in config.items() if key != "class"}, **others)

    def fewshot_context(self, doc: Doc, *arguments: Any, **named: Any) -> str:  # noqa: ANN401
        """The whole prompt for a question."""
        self.sampler.asked = doc
        prompt: str = super().fewshot_context(doc, *arguments, **named)
        return prompt

    def doc_to_text(self, doc: Doc, doc_to_text: str | None = None) -> str:
        """The question as the prompt shows it; lm-eval would compile the template again for each."""
        return _compiled(doc_to_text or self.config.doc_to_text).render(**doc)

    @staticmethod
    def resolve_field(doc: Doc, field: str | None = None) -> str | None:
        """A text of the configuration that may refer to the question."""
        return _compiled(field).render(**doc) if field else None


@cache
def _compiled(template: str) -> jinja2.Template:
    compiled: jinja2.Template = lm_eval.utils.env.from_string(template)
    return compiled


class SubjectSampler(ContextSampler):  # type: ignore[misc]
    """Draws the same examples for all questions of a subject, so that their prompts begin alike.

    Examples come from the question's subject where the pool has any of it. A question that is in the pool
    itself gets the next example instead.
    """

    asked: Doc
    """The question that the next examples are for."""
    seed: int = DEFAULT_SEED

    def set_rnd(self, rnd: int | None) -> "SubjectSampler":
        """Draw other examples from now on."""
        self.seed = DEFAULT_SEED if rnd is None else rnd
        return self

    def sample(self, n: int, *arguments: Any, **named: Any) -> Sequence[Doc]:  # noqa: ANN401
        """`n` examples for the question in `asked`.

        Raises:
            ConfigError: there are fewer; a recipe has been refused by then, plain lm-eval has not.
        """
        subject = self.asked["subject"]
        pool = [doc for doc in self.df if doc["subject"] == subject] or list(self.df)
        random.Random(f"{self.seed} {subject}").shuffle(pool)
        asked = (self.asked["context"], self.asked["question"])
        found = [doc for doc in pool if (doc["context"], doc["question"]) != asked]
        if len(found) < n:
            raise ConfigError(f"num_fewshot: {n}, but there are {len(found)} examples; lower it to that")
        return found[:n]


@register_filter("all_answers")
class AllAnswers(Filter):  # type: ignore[misc]
    """Leaves all answers to a question to whoever counts the votes; lm-eval would take the first."""

    def apply(self, resps: Iterable[list[str]], docs: Sequence[Doc]) -> list[list[str]]:
        """Every answer."""
        return list(resps)


def to_datasets(loaded: Loaded) -> dict[str, datasets.Dataset]:
    """The questions and the pool of examples, as the splits `test` and `examples`."""
    return {"test": _dataset(loaded.questions), "examples": _dataset(loaded.pool)}


def _dataset(questions: Sequence[Question]) -> datasets.Dataset:
    text = datasets.Value("string")
    features = datasets.Features(
        id=text,
        question=text,
        options=datasets.List(text),
        answer=datasets.Value("int64"),
        context=text,
        subject=text,
        letters=datasets.List(text),
    )
    docs = [question.as_doc() for question in questions]
    return datasets.Dataset.from_dict({name: [doc[name] for doc in docs] for name in features}, features)


def load_datasets(
    *,
    format: str,
    file: str = "",
    data_root: str = ".",
    paths: Mapping[str, str] | None = None,
    examples: Mapping[str, str] | None = None,
    subjects: Sequence[str] = (),
    ground_truth: str | None = None,
    columns: Mapping[str, Any] | None = None,
    first_answer: int = 1,
    passkey: Mapping[str, Any] | None = None,
    **others: Any,  # noqa: ANN401 - whatever else lm-eval was given as metadata
) -> dict[str, datasets.Dataset]:
    """What plain `lm_eval --include_path evaluation/tasks` calls; `--metadata` sets all but the first two.

    Args:
        format: form of the file, see `meditron.config.TaskConfig`.
        file: the file's usual name.
        data_root: folder that paths are relative to.
        paths: form to the file that is read instead of the usual one; `pubmedqa_ground_truth` names that.
        examples: form to the file that `--num_fewshot` draws from; mmlu has its folder `dev`.
        subjects: mmlu's subjects or groups.
        ground_truth: usual name of pubmedqa's labels.
        columns: fields of `meditron.config.ColumnsConfig` for the form `table`.
        first_answer: number of the first option where answers are numbers.
        passkey: fields of `meditron.config.PasskeyConfig`.
        others: not used.
    """
    paths, pool = paths or {}, (examples or {}).get(format)
    path = paths.get(format, file)
    has_dev = format == "mmlu" and (Path(data_root) / path / "dev").is_dir()
    config = TaskConfig(
        format=format,
        path=path,
        ground_truth=paths.get("pubmedqa_ground_truth", ground_truth),
        subjects=list(subjects),
        columns=ColumnsConfig(**(columns or {})),
        first_answer=first_answer,
        passkey=PasskeyConfig(**(passkey or {})),
        shots=1 if pool or has_dev else 0,
        shots_path=pool,
    )
    return to_datasets(load_questions(config, Path(data_root)))


def load_texts(
    *,
    kind: str,
    file: str,
    data_root: str = ".",
    paths: Mapping[str, str] | None = None,
    sources: Sequence[str] = (),
    max_characters: int | None = None,
    **others: Any,  # noqa: ANN401 - whatever else lm-eval was given as metadata
) -> dict[str, datasets.Dataset]:
    """Held-out documents, for plain `lm_eval`; `--metadata` sets all but the first two.

    Args:
        kind: medical or general.
        file: usual name of the corpus folder.
        data_root: folder that paths are relative to.
        paths: `corpus` names the folder that is read instead of the usual one.
        sources: names of the sources that are read. Default: all of the kind.
        max_characters: of each source, read only so many characters.
        others: not used.
    """
    from evaluation.perplexity import read_held_out

    corpus = Path(data_root) / (paths or {}).get("corpus", file)
    held_out, _ = read_held_out(PerplexityConfig(corpus=str(corpus), max_characters=max_characters))
    chosen = [own for own in held_out if own.kind == kind and (not sources or own.source in sources)]
    texts = [{"text": text, "source": own.source} for own in chosen for text in own.texts]
    return {"test": datasets.Dataset.from_list(texts)}
