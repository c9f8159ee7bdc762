"""The model that a run starts from: the base, with embedding rows for the tokens that its tokenizer got."""

from pathlib import Path
from typing import Any

from meditron.config import Recipe
from meditron.errors import ConfigError
from meditron.models.architecture import Architecture, find_architecture
from meditron.models.growing import MeanRows
from meditron.models.safetensors_folder import FolderWeights, RandomWeights, WeightSource


def base_architecture(recipe: Recipe, table: dict[str, Any]) -> Architecture:
    """The shape of `model.base`, as large as the tokenizer of the shards needs it.

    Args:
        recipe: names the base.
        table: the shards' `tokens.json`.

    Raises:
        ConfigError: the base has fewer rows than its tokenizer had ids before it got some.
    """
    architecture = find_architecture(str(recipe.model.base))
    vocab_size = int(table["vocab_size"])
    known = vocab_size - len(_added(table))
    if known > architecture.vocab_size:
        raise ConfigError(
            f"model.base: its embedding has {architecture.vocab_size} rows, the tokenizer of the shards "
            f"{known} ids; tokenize with the model's own tokenizer"
        )
    return architecture.with_vocab_size(max(vocab_size, architecture.vocab_size))


def base_weights(recipe: Recipe, architecture: Architecture, table: dict[str, Any]) -> WeightSource:
    """The base folder's weights, fresh ones for a preset; and what added tokens and options add.

    Args:
        recipe: names the base.
        architecture: the model to train, with its options.
        table: the shards' `tokens.json`.
    """
    base, plain = Path(str(recipe.model.base)), base_architecture(recipe, table)
    weights: WeightSource = FolderWeights(base) if base.is_dir() else RandomWeights(plain, recipe.seed)
    added = _added(table).values()
    if base.is_dir() and added:
        weights = MeanRows(weights, min(added), max(added) + 1)
    for option in architecture.options[len(plain.options) :]:
        weights = option.weights(weights, plain)
    return weights


def _added(table: dict[str, Any]) -> dict[str, int]:
    added: dict[str, int] = table.get("added_tokens", {})  # older shards do without
    return added
