"""The shape of a recipe's base model, also before that is imported."""

from pathlib import Path
from typing import NamedTuple

from meditron.config import Recipe
from meditron.errors import MeditronError
from meditron.models.architecture import (
    PRESETS,
    RELEASES,
    Architecture,
    find_architecture,
    read_architecture,
)


class Base(NamedTuple):
    """A shape to reckon with."""

    architecture: Architecture
    source: str
    """Where it was taken from."""


def known_base(recipe: Recipe) -> Base:
    """The shape of `model.base`; where that is yet to be imported, of what it will be imported from.

    Raises:
        MeditronError: it is not usable, or its shape is not known before it is imported.
    """
    base, source = recipe.model.base, recipe.model.import_from
    try:
        return Base(find_architecture(base), f"the preset {base}" if base in PRESETS else base)
    except MeditronError:
        known = _of_import(source) if source is not None and is_to_come(recipe) else None
        if known is None:
            raise
        return known


def _of_import(source: str) -> Base | None:
    """The shape of what `meditron import` reads; None where it is on the hub and no release that is known."""
    where = f"model.import_from: {source}"
    if source in RELEASES:
        return Base(PRESETS[RELEASES[source]], f"the preset {RELEASES[source]}, for {where}")
    if Path(source).is_dir():
        return Base(read_architecture(source), where)
    if Path(source).is_file():
        from meditron.models.gguf import GGUFModel

        return Base(GGUFModel(source).architecture, where)
    return None


def is_to_come(recipe: Recipe) -> bool:
    """Whether `meditron import` is to write the base model."""
    return recipe.model.import_from is not None and recipe.model.base == recipe.model.import_to
