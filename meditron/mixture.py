"""Which share of pretraining's samples each source has: what `curate plan` shows and `pretrain` draws."""

from collections.abc import Mapping

from meditron.config.pretrain import PretrainConfig
from meditron.errors import ConfigError


def source_shares(
    config: PretrainConfig, tokens: Mapping[str, int], kinds: Mapping[str, str]
) -> dict[str, float]:
    """Share of each source in the samples, by name; they sum to 1.

    By `weights`, else by the number of tokens; times `upsample`; and with `replay`, the sources of kind
    general have that share together and the others the rest.

    Args:
        config: `weights`, `upsample` and `replay`.
        tokens: training tokens of each source.
        kinds: medical or general, of each source.

    Raises:
        ConfigError: a source that is named has no tokens, no source has any, or `replay` lacks one side.
    """
    present = [name for name, count in tokens.items() if count]
    for field, named in (("weights", config.weights), ("upsample", config.upsample)):
        for name in sorted(set(named).difference(present)):
            raise ConfigError(
                f"pretrain.{field}.{name}: no source of this name has training text; "
                f"there are {', '.join(present) or 'none'}"
            )
    if not present:
        raise ConfigError("pretrain.shards: hold no training text; add documents to the corpus")
    chosen = config.weights or {name: float(tokens[name]) for name in present}
    weights = {name: weight * config.upsample.get(name, 1.0) for name, weight in sorted(chosen.items())}
    if config.replay is None:
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}
    parts = {"general": config.replay, "medical": 1 - config.replay}
    totals = {kind: sum(w for name, w in weights.items() if kinds[name] == kind) for kind in parts}
    for kind, total in totals.items():
        if not total:
            raise ConfigError(
                f"pretrain.replay: no source of kind {kind} has a weight; set curate.sources.*.kind or "
                "pretrain.weights, or leave replay out"
            )
    return {name: weight * parts[kinds[name]] / totals[kinds[name]] for name, weight in weights.items()}
