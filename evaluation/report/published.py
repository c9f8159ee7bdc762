"""Figures of the MEDITRON paper, quoted beside one's own where the questions are the same in number.

Chen et al. 2023, MEDITRON-70B: Scaling Medical Pretraining for Large Language Models, arXiv 2311.16079,
table 4: models that were not finetuned, accuracy in per cent, means over three draws of demonstrations
(3 of them for 7B models, 5 for 70B).
"""

from dataclasses import dataclass

SOURCE = "arXiv 2311.16079, table 4"
QUESTIONS = {
    "PubMedQA": (500,),
    "MedMCQA": (4183,),
    "MedQA (5 options)": (1273,),
    "MedQA (4 options)": (1273,),
    "MMLU-Medical": (1862, 1871),
}
"""Column of the table to the questions of its test set (the paper's MMLU lacks one a subject)."""
ACCURACIES = {
    "MMLU-Medical": (41.4, 42.3, 71.3, 71.5),
    "PubMedQA": (49.1, 69.3, 72.8, 79.8),
    "MedMCQA": (37.9, 36.3, 52.4, 53.3),
    "MedQA (5 options)": (29.1, 28.7, 49.0, 52.0),
    "MedQA (4 options)": (35.4, 37.4, 58.4, 59.8),
}
MODELS = ("Llama-2-7B", "MEDITRON-7B", "Llama-2-70B", "MEDITRON-70B")


@dataclass(frozen=True, kw_only=True)
class Quoted:
    """A published accuracy."""

    model: str
    """The model it belongs to."""
    column: str
    """The column of the paper's table."""
    accuracy: float
    """Share of correct answers, 0-1."""


def quoted(task: str, group: str | None, questions: int | None, chance: float | None) -> list[Quoted]:
    """The paper's accuracies for a task; none unless the questions are as many as there."""
    column = _column(task.lower(), (group or "").lower(), chance)
    if column is None or questions not in QUESTIONS[column]:
        return []
    return [
        Quoted(model=model, column=column, accuracy=round(accuracy / 100, 4))
        for model, accuracy in zip(MODELS, ACCURACIES[column], strict=True)
    ]


def _column(task: str, group: str, chance: float | None) -> str | None:
    if "pubmedqa" in task:
        return "PubMedQA"
    if "medmcqa" in task:
        return "MedMCQA"
    if "medqa" in task:
        return "MedQA (4 options)" if chance is not None and chance > 0.22 else "MedQA (5 options)"
    if "mmlu" in task and "9" in task + group:
        return "MMLU-Medical"
    return None
