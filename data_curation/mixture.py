"""`meditron curate plan`: what pretraining would see of each source, before anything is written."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_curation.plan import Plan, make_plan
from meditron.config import PretrainConfig, Recipe
from meditron.errors import ManifestError
from meditron.manifest import read_manifest
from meditron.mixture import source_shares
from meditron.progress import console

CHARACTERS_PER_TOKEN = 4.2
"""Of a Llama tokenizer on medical English, for estimates only."""
# Characters of text in a byte of input, as benchmarks/curation.py measured them on real files.
_TEXT_OF_INPUT = {"jats": 0.35, "medline": 0.05, "cnxml": 0.65, "medquad": 0.55, "pdf": 0.1, "html": 0.4}
_FROM_INPUT = "estimated from the size of the input, so within a factor; counted once curated and tokenized"
_REPEATS_WORTH = 4
"""Epochs up to which repeated text is nearly as good as new (Muennighoff et al., arXiv 2305.16264)."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """One source in the mixture."""

    source: str
    """Its name."""
    kind: str
    """medical or general."""
    tokens: int
    """Training tokens there are."""
    share: float
    """Part of the samples of pretraining that come from it."""
    drawn: int
    """Tokens that pretraining draws from it."""

    @property
    def epochs(self) -> float:
        """How often pretraining sees each of its tokens."""
        return self.drawn / self.tokens if self.tokens else 0.0


def main(recipe: Recipe) -> None:
    """Print the mixture.

    Raises:
        ConfigError: no source is configured, or a weight is for none of them.
        InputError: a source has no files.
    """
    plan = make_plan(recipe.curate, recipe.data_root or ".", recipe.seed)
    tokens, origin = tokens_of(plan, recipe)
    print_mixture(mixture(plan, recipe.pretrain, tokens), recipe.pretrain, origin)


def tokens_of(plan: Plan, recipe: Recipe) -> tuple[dict[str, int], str]:
    """Training tokens of each source, and how they are known: shards, the corpus, or the input's size."""
    shards, corpus = Path(recipe.tokenize.output or ""), Path(recipe.curate.output or "")
    names = set(plan.sources)
    rows = _account(shards, "shards", "tokens.json")
    if names == set(rows):
        return {name: int(row["train_tokens"]) for name, row in rows.items()}, f"counted in {shards}"
    rows = _account(corpus, "corpus", "stats.json")
    if names == set(rows):
        found = {name: row["chars"] * row["train"] / max(row["kept"], 1) for name, row in rows.items()}
        origin = f"estimated from the characters of {corpus}"
    else:
        held_out = recipe.curate.validation_fraction
        found = {name: size * (1 - held_out) for name, size in _text_of_inputs(plan)}
        origin = _FROM_INPUT
    return {name: round(size / CHARACTERS_PER_TOKEN) for name, size in found.items()}, origin


def _account(folder: Path, kind: str, name: str) -> dict[str, dict[str, float]]:
    """The sources' figures of a finished folder, or nothing."""
    try:
        read_manifest(folder, kind=kind)
        rows: dict[str, dict[str, float]] = json.loads((folder / name).read_text(encoding="utf-8"))["sources"]
        return rows
    except (ManifestError, OSError, ValueError, KeyError):
        return {}


def _text_of_inputs(plan: Plan) -> Iterator[tuple[str, float]]:
    for name, source in plan.sources.items():
        size = sum(chunk.bytes for chunk in plan.chunks if chunk.source == name)
        yield name, size * _TEXT_OF_INPUT.get(source.reader, 0.95)


def mixture(plan: Plan, config: PretrainConfig, tokens: Mapping[str, int]) -> list[Share]:
    """Each source's part of the samples, as pretraining draws them.

    Raises:
        ConfigError: a weight is for no source, or `replay` lacks a side.
    """
    # A source of which nothing is known yet is not one that does not exist.
    known = {name: max(tokens[name], 1) for name in plan.sources}
    shares = source_shares(config, known, {name: source.kind for name, source in plan.sources.items()})
    drawn = config.train_steps * config.global_batch_size * config.sequence_length
    return [
        Share(
            source=name,
            kind=source.kind,
            tokens=tokens[name],
            share=shares.get(name, 0.0),
            drawn=round(drawn * shares.get(name, 0.0)),
        )
        for name, source in plan.sources.items()
    ]


def print_mixture(shares: list[Share], config: PretrainConfig, origin: str) -> None:
    """The mixture as a table for people, fit for 80 columns, with what is odd about it below."""
    from rich.table import Table

    table = Table(title="mixture of pretraining", title_justify="left", title_style="bold", box=None)
    for heading in ("source", "kind"):
        table.add_column(heading, overflow="fold")
    unit, scale = ("K", 1e3) if max(share.tokens for share in shares) < 1e6 else ("M", 1e6)
    for heading in (f"{unit} tokens", "share", f"{unit} drawn", "epochs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for share in shares:
        drawn, tokens = f"{share.drawn / scale:,.2f}", f"{share.tokens / scale:,.2f}"
        table.add_row(share.source, share.kind, tokens, f"{share.share:.1%}", drawn, f"{share.epochs:.2f}")
    console().print(table)
    replay = sum(share.share for share in shares if share.kind == "general")
    console().print(
        f"tokens: {origin}\ndrawn: {config.train_steps:,} steps x {config.global_batch_size} samples x "
        f"{config.sequence_length:,} tokens; replay of general text {replay:.1%}"
    )
    for share in shares:
        if share.epochs > _REPEATS_WORTH and origin != _FROM_INPUT:
            console().print(
                f"warning: {share.source} is seen {share.epochs:.1f} times; past {_REPEATS_WORTH} epochs "
                "repeated text teaches little: lower its share (pretrain.weights, upsample or replay) or "
                "train_steps, or add documents"
            )
