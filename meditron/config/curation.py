"""Configuration of curation and tokenizing."""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class SourceConfig:
    """One source of documents."""

    path: str
    """File, folder, glob or archive, relative to `data_root`."""
    reader: str
    """Registered reader: jats, medline, html, markdown, jsonl, parquet, ..."""


@dataclass(kw_only=True)
class CurateConfig:
    """Sources to corpus."""

    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Name of each source to where and how it is read."""
    output: str | None = None
    """Corpus folder. Default: `<work_dir>/corpus`."""


@dataclass(kw_only=True)
class TokenizeConfig:
    """Corpus to shards."""

    corpus: str | None = None
    """Corpus folder. Default: what `curate` writes."""
    output: str | None = None
    """Shards folder. Default: `<work_dir>/shards`."""
    tokenizer: str | None = None
    """Tokenizer folder or SentencePiece file. Default: the base model's."""
