"""All questions of one task: which files, which of their questions, and what could not be used."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from evaluation.questions.base import Bad, Question, QuestionFile, read_file
from evaluation.questions.formats import read_labels
from evaluation.questions.hub import local_path
from evaluation.questions.passkey import make_passkeys
from meditron.config import TaskConfig
from meditron.config.check import suggest
from meditron.errors import ConfigError, InputError
from meditron.files import sha256_file

MMLU_GROUPS: dict[str, tuple[str, ...]] = {
    "medical-6": (
        "anatomy",
        "clinical_knowledge",
        "college_biology",
        "college_medicine",
        "medical_genetics",
        "professional_medicine",
    ),
    "medical-9": (
        "anatomy",
        "clinical_knowledge",
        "college_biology",
        "college_medicine",
        "high_school_biology",
        "medical_genetics",
        "nutrition",
        "professional_medicine",
        "virology",
    ),
}
"""Groups of MMLU subjects: six as in Med-PaLM (arXiv 2212.13138), nine as in MEDITRON (arXiv 2311.16079)."""


@dataclass(kw_only=True)
class Loaded:
    """The questions of one task."""

    questions: list[Question]
    """What is asked."""
    pool: list[Question] = field(default_factory=list)
    """What solved examples are drawn from."""
    bad: list[Bad] = field(default_factory=list)
    """Records that cannot be used."""
    records: int = 0
    """Records that were read, bad ones included."""
    pool_hash: str = ""
    """Hash of the pool: of what may stand before a question."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Path of each file, as the recipe writes it, to its SHA-256."""
    group: str | None = None
    """mmlu: the group of subjects that was asked for by name, and nothing besides."""

    def rotated(self, by: int) -> "Loaded":
        """The same with the options of every question moved up by so many places, the first to the end."""
        return replace(self, questions=[question.rotated(by) for question in self.questions])


def load_questions(config: TaskConfig, root: Path) -> Loaded:
    """Read a task's files under `root`.

    Raises:
        ConfigError: an unknown subject, or more solved examples wanted than there are.
        InputError: a file is missing or unreadable, or none of its records has the form.
    """
    if config.format == "passkey":
        return _made_up(make_passkeys(config.passkey))
    files = _files(config, root, config.split, config.paths)
    pool_paths = config.shots_paths
    pool_files: list[QuestionFile] = []
    if config.shots and config.format == "mmlu":
        pool_files = _files(config, root, pool_paths[0] if pool_paths else "dev", config.paths)
    elif config.shots:
        # The ground truth lists the test questions; examples are drawn from whatever has a label.
        pool_files = _files(replace(config, ground_truth=None), root, "", pool_paths)
    asked, asked_bad, asked_records = _read(files, root, config.limit)
    pool, pool_bad, pool_records = _read(pool_files, root, None)
    if config.format != "mmlu":  # its examples have a split of their own; some of them are also asked
        taken = {(question.context, question.question) for question in asked}
        pool = [example for example in pool if (example.context, example.question) not in taken]
    loaded = Loaded(
        questions=asked,
        pool=pool,
        bad=asked_bad + pool_bad,
        records=asked_records + pool_records,
        pool_hash=_hash(pool),
        hashes=_hashes(config, root, [*files, *pool_files]),
        group=_group(config.subjects, [file.subject for file in files]),
    )
    _check(config, loaded, [*files, *pool_files])
    if config.shots:
        _check_shots(config.shots, loaded)
    return loaded


def _made_up(questions: list[Question]) -> Loaded:
    """Questions that no file holds, with the hash of what they are."""
    content = json.dumps([asdict(question) for question in questions]).encode()
    hashes = {"pass-keys, made up": hashlib.sha256(content).hexdigest()}
    return Loaded(questions=questions, records=len(questions), hashes=hashes)


def _hash(pool: Sequence[Question]) -> str:
    """Hash of what solved examples may show; their ids, which name files, are no part of it."""
    digest = hashlib.sha256()
    for example in pool:
        shown = (example.question, example.options, example.answer, example.context, example.subject)
        digest.update(json.dumps(shown).encode())
    return digest.hexdigest()


def _files(config: TaskConfig, root: Path, split: str, paths: Sequence[str]) -> list[QuestionFile]:
    if config.format == "mmlu":
        return [file for path in paths for file in _mmlu_files(config, root / path, split)]
    labels = read_labels(root / config.ground_truth) if config.ground_truth else None
    return [QuestionFile(path=local_path(path, root), config=config, labels=labels) for path in paths]


def _mmlu_files(config: TaskConfig, folder: Path, split: str) -> list[QuestionFile]:
    suffix = f"_{split}.csv"
    found = {path.name.removesuffix(suffix): path for path in sorted((folder / split).glob(f"*{suffix}"))}
    if not found:
        raise InputError(
            f"{folder / split}: holds no files <subject>{suffix}; check evaluate.tasks and data_root"
        )
    subjects = _subjects(config.subjects, found, folder / split)
    return [QuestionFile(path=found[name], config=config, subject=name) for name in subjects]


def _subjects(wanted: Sequence[str], found: Iterable[str], folder: Path) -> list[str]:
    known = list(found)
    if not wanted or "all" in wanted:
        return known
    named = [subject for name in wanted for subject in MMLU_GROUPS.get(name, (name,))]
    for subject in named:
        if subject not in known:
            hint = suggest(subject, [*known, *MMLU_GROUPS])
            raise ConfigError(f"evaluate.tasks.subjects: {folder} has no subject {subject!r}{hint}")
    return list(dict.fromkeys(named))


def _group(wanted: Sequence[str], subjects: Sequence[str]) -> str | None:
    """The group that was asked for by name, where it is all that was asked for."""
    groups = (name for name in wanted if name in MMLU_GROUPS)
    return next((name for name in groups if set(MMLU_GROUPS[name]) == set(subjects)), None)


def _read(
    files: Iterable[QuestionFile], root: Path, limit: int | None
) -> tuple[list[Question], list[Bad], int]:
    """Questions, at most `limit` of each file drawn evenly over it, all bad records, and their number."""
    groups: list[tuple[str, list[Question]]] = []
    bad: list[Bad] = []
    for file in files:
        records = list(read_file(file))
        groups.append((_name(file.path, root), [one for one in records if isinstance(one, Question)]))
        bad += [one for one in records if isinstance(one, Bad)]
    count = len(bad) + sum(len(own) for _, own in groups)
    questions = [question for own in _told_apart(groups) for question in _drawn(own, limit)]
    return questions, bad, count


def _drawn(questions: list[Question], limit: int | None) -> list[Question]:
    if limit is None or limit >= len(questions):
        return questions
    return [questions[index] for index in np.linspace(0, len(questions) - 1, limit).round().astype(int)]


def _told_apart(groups: Sequence[tuple[str, list[Question]]]) -> list[list[Question]]:
    """Questions by file with ids that are unique in the task, as models are compared by them.

    Where two files have the same id, all get their file's name; one that a file has again gets a number.
    """
    ids = [{question.id for question in own} for _, own in groups]
    clash = sum(map(len, ids)) > len(set().union(*ids))
    seen: Counter[str] = Counter()
    found: list[list[Question]] = []
    for name, own in groups:
        found.append([])
        for question in own:
            unique = f"{name} {question.id}" if clash else question.id
            seen[unique] += 1
            unique += f" ({seen[unique]})" if seen[unique] > 1 else ""
            found[-1].append(question if unique == question.id else replace(question, id=unique))
    return found


def _hashes(config: TaskConfig, root: Path, files: Sequence[QuestionFile]) -> dict[str, str]:
    paths = [file.path for file in files]
    paths += [root / config.ground_truth] if config.ground_truth else []
    return {_name(path, root): sha256_file(path) for path in dict.fromkeys(paths)}


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _check(config: TaskConfig, loaded: Loaded, files: Sequence[QuestionFile]) -> None:
    """Refuse files in which nothing has the form: that is a mistake in the recipe, not in a record."""
    if loaded.questions and (loaded.pool or not config.shots):
        return
    what = "example" if loaded.questions else "question"
    reason = f"; the first record: {loaded.bad[0].reason}" if loaded.bad else ""
    name = loaded.bad[0].file if loaded.bad else files[0].path
    raise InputError(
        f"{name}: holds no usable {what} of format {config.format!r}{reason}; "
        "check evaluate.tasks.format and the file"
    )


def _check_shots(shots: int, loaded: Loaded) -> None:
    """Refuse more solved examples than a question can have: those of its subject, if any, without itself."""
    by_subject = Counter(example.subject for example in loaded.pool)
    same = Counter((example.subject, example.context, example.question) for example in loaded.pool)
    everywhere = Counter((example.context, example.question) for example in loaded.pool)
    fewest, subject = len(loaded.pool), ""
    for question in loaded.questions:
        asked = (question.context, question.question)
        if of_subject := by_subject[question.subject]:
            own = of_subject - same[(question.subject, *asked)]
        else:
            own = len(loaded.pool) - everywhere[asked]
        if own < fewest:
            fewest, subject = own, question.subject
    if fewest < shots:
        whose = f"subject {subject!r} has" if subject else "there are"
        raise ConfigError(
            f"evaluate.tasks.shots: {shots}, but {whose} {fewest} solved examples to draw from; lower it to "
            "that, or name other files in evaluate.tasks.shots_path"
        )
