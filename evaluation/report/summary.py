"""The page's first lines: what the run shows, as far as it shows anything."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.report import numbers
from evaluation.report.build import Page, kinds
from evaluation.report.compare import Score, compare_perplexities
from evaluation.report.results import PerplexityRow, TaskRow
from evaluation.report.training import TrainingRun


@dataclass(frozen=True, kw_only=True)
class Card:
    """One finding."""

    heading: str
    """What was measured."""
    before: str
    """The first model's value; empty where there is one value only."""
    after: str
    """The value that counts."""
    text: str
    """What it means, in words."""


def cards(page: Page) -> list[Card]:
    """The findings that the page can give."""
    found: list[Card | None] = [
        *_perplexity_cards(page),
        _accuracy_card(page.tasks),
        _training_card(page.pretraining),
    ]
    return [card for card in found if card is not None]


def _perplexity_cards(page: Page) -> list[Card | None]:
    kinds_shown = ("medical", "general")
    if page.perplexity:
        before, after = page.labels[0], trained_label(page.labels)
        return [_perplexity_card(page.perplexity, kind, before, after) for kind in kinds_shown]
    if page.pretraining is None:
        return []
    return [_validation_card(page, page.pretraining, kind) for kind in kinds_shown]


def trained_label(labels: Sequence[str]) -> str:
    """The model that continued pretraining left; the last one where none is so named."""
    return "pretrained" if "pretrained" in labels else labels[-1]


def _perplexity_card(rows: Sequence[PerplexityRow], kind: str, before: str, after: str) -> Card | None:
    rows = [row for row in rows if row.kind == kind and before in row.scores and after in row.scores]
    rows = [row for row in rows if row.hashes[before] == row.hashes[after]]  # measured alike
    if not rows:
        return None
    heading = f"Perplexity, held-out {kind} text"
    first, last = pooled(rows, before), pooled(rows, after)
    if before == after:
        text = f"{before}, over {_sources(len(rows))}; no other model was measured."
        return Card(heading=heading, before="", after=numbers.significant(first.value), text=text)
    return Card(
        heading=heading,
        before=numbers.significant(first.value),
        after=numbers.significant(last.value),
        text=f"{_change_text(first, last)} from {before} to {after}; {_sources_text(rows, before, after)}.",
    )


def pooled(rows: Sequence[PerplexityRow], label: str) -> Score:
    """Perplexity over all tokens of several sources: each token weighs the same."""
    scores = [row.scores[label] for row in rows]
    weights = [score.count or 1 for score in scores]
    loss = sum(weight * math.log(score.value) for weight, score in zip(weights, scores, strict=True))
    return Score(
        value=math.exp(loss / sum(weights)),
        bounds=None,
        count=sum(weights),
        documents=[document for score in scores for document in score.documents],
    )


def _change_text(first: Score, last: Score) -> str:
    change = compare_perplexities(first, last)
    text = numbers.signed(change.difference, "%")
    if change.interval is None:
        return text
    low, high = (numbers.signed(bound, "%") for bound in change.interval)
    return f"{text} (95 % interval {low} to {high}, over the same {len(first.documents):,} documents)"


def _sources_text(rows: Sequence[PerplexityRow], before: str, after: str) -> str:
    lower = sum(row.scores[after].value < row.scores[before].value for row in rows)
    return f"lower in {lower} of {_sources(len(rows))}"


def _sources(count: int) -> str:
    return f"{count} source{'s' if count > 1 else ''}"


def _validation_card(page: Page, run: TrainingRun, kind: str) -> Card | None:
    """Without an evaluation, the validations of the training itself."""
    kind_of = kinds(page)
    curves = {s: points for s, points in run.validation_curves("loss").items() if kind_of.get(s) == kind}
    curves = {source: points for source, points in curves.items() if len(points) > 1}
    if not curves:
        return None
    first, last = (
        math.exp(sum(points[index][1] for points in curves.values()) / len(curves)) for index in (0, -1)
    )
    return Card(
        heading=f"Perplexity, held-out {kind} text",
        before=numbers.significant(first),
        after=numbers.significant(last),
        text=f"{numbers.signed(100 * (last / first - 1), '%')} during pretraining, geometric mean of "
        f"{_sources(len(curves))}; there is no evaluation.",
    )


def _accuracy_card(tasks: Sequence[TaskRow]) -> Card | None:
    changes = [change for row in tasks for change in row.changes.values()]
    if not changes:
        return None
    evident = sum(change.is_evidence for change in changes)
    if evident == 0:
        text = "No model differs from the first one by more than chance explains, in any comparison."
    else:
        text = "The table says which, and which way; of 20 comparisons, chance alone gives about one."
    return Card(
        heading="Accuracy: differences beyond chance",
        before="",
        after=f"{evident} of {len(changes)}",
        text=text,
    )


def _training_card(run: TrainingRun | None) -> Card | None:
    if run is None:
        return None
    speed = numbers.short(run.middle("tokens_per_second"))
    return Card(
        heading="Pretraining",
        before="",
        after=f"{numbers.short(run.total('tokens'))} tokens",
        text=f"{numbers.count(run.last_step)} steps, {speed} tokens/s (median); "
        f"{run.info.get('state', 'state unknown')}.",
    )
