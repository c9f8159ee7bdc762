"""Shares of the sources in the samples of pretraining."""

import pytest

from meditron.config import PretrainConfig
from meditron.errors import ConfigError
from meditron.mixture import source_shares

TOKENS = {"papers": 600, "guidelines": 100, "books": 200, "wiki": 100, "empty": 0}
KINDS = {
    "papers": "medical",
    "guidelines": "medical",
    "books": "general",
    "wiki": "general",
    "empty": "medical",
}


def shares(**settings: object) -> dict[str, float]:
    return source_shares(PretrainConfig(**settings), TOKENS, KINDS)  # type: ignore[arg-type]


def test_by_tokens_or_by_weights() -> None:
    assert shares() == {"papers": 0.6, "guidelines": 0.1, "books": 0.2, "wiki": 0.1}
    assert shares(weights={"books": 1, "papers": 3}) == {"books": 0.25, "papers": 0.75}


def test_a_source_is_drawn_as_often_as_asked() -> None:
    drawn = shares(upsample={"guidelines": 4})
    epochs = {name: share / TOKENS[name] for name, share in drawn.items()}
    assert epochs["guidelines"] == pytest.approx(4 * epochs["papers"])
    assert epochs["books"] == pytest.approx(epochs["papers"])
    assert shares(weights={"papers": 1, "books": 1}, upsample={"books": 3}) == {"books": 0.75, "papers": 0.25}


def test_replay_is_the_share_of_general_sources_together() -> None:
    drawn = shares(replay=0.01)
    assert drawn["books"] + drawn["wiki"] == pytest.approx(0.01)
    assert drawn["books"] == pytest.approx(2 * drawn["wiki"])
    assert drawn["papers"] == pytest.approx(6 * drawn["guidelines"])
    assert sum(drawn.values()) == pytest.approx(1)
    upsampled = shares(replay=0.01, upsample={"wiki": 4})
    assert upsampled["wiki"] == pytest.approx(2 * upsampled["books"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"weights": {"papers": 1, "paper": 1}},
            r"pretrain\.weights\.paper: .* there are papers, guidelines",
        ),
        ({"upsample": {"empty": 2}}, r"pretrain\.upsample\.empty: no source of this name has training text"),
        ({"replay": 0.1, "weights": {"papers": 1}}, r"pretrain\.replay: no source of kind general"),
        ({"replay": 0.1, "weights": {"wiki": 1}}, r"pretrain\.replay: no source of kind medical"),
        ({"replay": 1.0}, r"pretrain\.replay"),
        ({"upsample": {"papers": 0}}, r"pretrain\.upsample\.papers"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shares(**settings)


def test_shards_without_text_are_refused() -> None:
    with pytest.raises(ConfigError, match="hold no training text"):
        source_shares(PretrainConfig(), {"a": 0}, {"a": "medical"})
