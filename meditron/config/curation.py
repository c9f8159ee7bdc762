"""Configuration of curation and tokenizing."""

from dataclasses import dataclass, field
from typing import Any, Literal

from meditron.config.check import require, require_choice


@dataclass(kw_only=True)
class SourceConfig:
    """One source of documents."""

    path: str | list[str]
    """Files, folders or globs, relative to `data_root`. A folder means every file under it that the
    reader knows by its ending."""
    reader: str
    """Registered reader: jats, medline, html, markdown, jsonl, parquet, ..."""
    kind: Literal["medical", "general"] = "medical"
    """Which side of the mixture the source is on; `general` is replay text."""
    license: str = "unknown"
    """Licence of the documents that do not name their own; recorded with every output."""
    options: dict[str, Any] = field(default_factory=dict)
    """Settings of the reader, as that reader documents them."""
    limit: int | None = None
    """Read at most this many records, in the order of the files. Default: all."""
    validation_fraction: float | None = None
    """Share of the documents held out, overriding `curate.validation_fraction`."""

    def __post_init__(self) -> None:
        require(bool(self.path), "curate.sources.path", self.path, "must name at least one file or folder")
        require(self.limit is None or self.limit > 0, "curate.sources.limit", self.limit, "must be positive")
        fraction = self.validation_fraction
        require(
            fraction is None or 0 <= fraction < 1,
            "curate.sources.validation_fraction",
            fraction,
            "must be at least 0 and under 1",
        )

    @property
    def paths(self) -> list[str]:
        """`path` as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path)


@dataclass(kw_only=True)
class CleanConfig:
    """What is taken out of documents because it is no content; numbers and comparators are left alone."""

    rules: list[str] = field(
        default_factory=lambda: ["escaped_html", "references", "notices", "navigation", "urls"]
    )
    """Rules to apply: `escaped_html` (HTML that was escaped once more), `references` (lists of references
    under their heading), `notices` (copyright and licence), `navigation` (lines of a web page that lead
    elsewhere), `urls`. Characters are always repaired. [] removes nothing."""
    audit: bool = False
    """Measure which share of the numbers, comparators and units of each source survives cleaning, by
    rule, and record it in `stats.json`; takes about as long again as cleaning."""

    def __post_init__(self) -> None:
        known = ("escaped_html", "references", "notices", "navigation", "urls")
        for rule in self.rules:
            require_choice(rule, known, "curate.clean.rules")


@dataclass(kw_only=True)
class FilterConfig:
    """Which documents are too poor to train on; each rule names itself in the statistics."""

    min_characters: int = 100
    """Drop documents of fewer characters, counted without surrounding white space."""
    min_words: int = 0
    """Drop documents of fewer words. Default: no limit."""
    min_letter_fraction: float = 0.3
    """Drop documents in which letters are a smaller share of what is not white space; tables of
    laboratory values stay well above the default."""
    max_repeated_line_fraction: float = 0.5
    """Drop documents in which a larger share of the characters is in lines that occurred before
    (the rule of Gopher, arXiv 2112.11446, table A1, with room for tables). 1 turns it off."""
    allowed_licenses: list[str] = field(default_factory=list)
    """Keep only documents under these licences (compared without regard to case). Default: all."""
    retracted: Literal["drop", "keep"] = "drop"
    """Articles that were retracted, by their publication type or title, and the notices that say so."""
    languages: list[str] = field(default_factory=list)
    """Keep only documents in these languages (ISO 639-1: `en`), drop those that are in another one with a
    probability of at least `language_confidence`. Default: all."""
    language_confidence: float = 0.9
    """How sure the language of a document must be before it is dropped for it."""
    quality: Literal["off", "medical", "general"] = "off"
    """Rules of Gopher, C4 and FineWeb: `medical` with bounds that tables, lists and repeated terms of
    medical texts keep, and an account of what the published bounds would have dropped; `general` with
    those for the web."""
    quality_bounds: dict[str, float] = field(default_factory=dict)
    """Other bounds, by rule, such as `min_words: 30`; docs/curating.md lists the rules."""
    classifier: str | None = None
    """File that `meditron curate train-classifier` wrote: drop what it takes for no medical text. It is
    asked about sources of kind medical only. Default: none."""
    classifier_threshold: float = 0.5
    """Probability of being medical text that a document must have."""

    def __post_init__(self) -> None:
        for name in ("min_characters", "min_words"):
            require(getattr(self, name) >= 0, f"curate.filters.{name}", getattr(self, name), "is negative")
        for name in (
            "min_letter_fraction",
            "max_repeated_line_fraction",
            "language_confidence",
            "classifier_threshold",
        ):
            value = getattr(self, name)
            require(0 <= value <= 1, f"curate.filters.{name}", value, "must be between 0 and 1")


@dataclass(kw_only=True)
class PhiConfig:
    """Identifiers of people: the classes of the HIPAA Safe Harbor list that show by form and context."""

    action: Literal["off", "report", "redact", "drop"] = "report"
    """`report` counts them and shows where they are, with placeholders in their place; `redact` also puts
    placeholders such as `[EMAIL]` into the corpus; `drop` leaves such documents out."""
    classes: list[str] = field(default_factory=list)
    """Classes to look for, such as `EMAIL`, `DATE`; docs/curating.md lists them. Default: all."""
    names_model: str | None = None
    """Pipeline of spaCy, an installed package such as `en_core_web_lg` or a folder, with which presidio looks
    for names of persons (needs the extra `presidio`). Default: names are found by their form only."""

    def __post_init__(self) -> None:
        sought = self.names_model is None or not self.classes or "NAME" in self.classes
        require(sought, "curate.phi.names_model", self.names_model, "needs NAME among curate.phi.classes")


@dataclass(kw_only=True)
class DedupConfig:
    """Which documents count as the same; of two, the one whose source is named first is kept."""

    same_work: Literal["off", "first", "full_text"] = "full_text"
    """Articles that share a DOI, PMID, PMCID or title: `first` keeps the one whose source is named
    first, `full_text` the longest one, so that a paper stays and its abstract goes."""
    near: bool = True
    """Also drop documents that are similar, whatever their source."""
    similarity: float = 0.8
    """Share of the word 5-grams of two documents that they have in common (Jaccard) from which they
    are near-duplicates, estimated by MinHash with a standard error of 0.04."""

    def __post_init__(self) -> None:
        valid = 0.5 <= self.similarity <= 1
        require(valid, "curate.dedup.similarity", self.similarity, "must be between 0.5 and 1")


@dataclass(kw_only=True)
class BenchmarkConfig:
    """A set of questions that must not be in the corpus."""

    path: str | list[str]
    """Files, folders or globs (JSON, JSON lines, CSV), relative to `data_root`."""
    fields: list[str] = field(default_factory=lambda: ["question", "prompt", "context", "contexts"])
    """Fields of a record, or columns, whose text is looked for, whatever their case. A CSV file whose
    first row has none of them is taken to have no head, and its first column is looked for."""


@dataclass(kw_only=True)
class DecontaminateConfig:
    """Keeping benchmark questions out of the corpus; `contamination.jsonl` lists what was found."""

    benchmarks: dict[str, BenchmarkConfig] = field(default_factory=dict)
    """Name of each benchmark to its files. A document is a match when it shares 13 words in a row with a
    text of a benchmark, or 80% of that text's runs of 8 words."""
    action: Literal["drop", "redact"] = "drop"
    """`drop` leaves such documents out, `redact` only the words that they share."""
    max_documents: int = 10
    """A run of words that more documents than this have is common wording and proves nothing."""

    def __post_init__(self) -> None:
        limit = self.max_documents
        require(limit >= 1, "curate.decontaminate.max_documents", limit, "must be at least 1")


@dataclass(kw_only=True)
class TrainClassifierConfig:
    """`meditron curate train-classifier`: medical and general sources of a curated corpus, told apart."""

    output: str | None = None
    """File of the weights. Default: `<work_dir>/classifier.safetensors`."""
    max_documents: int = 5000
    """Documents of each source to learn from, chosen by the seed."""
    features: int = 2**18
    """Hashed words and pairs of words that are told apart; the file has 4 bytes for each."""

    def __post_init__(self) -> None:
        for name in ("max_documents", "features"):
            value = getattr(self, name)
            require(value >= 1, f"curate.train_classifier.{name}", value, "must be at least 1")


@dataclass(kw_only=True)
class CurateConfig:
    """Sources to corpus."""

    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Name of each source to where and how it is read. Of two equal documents the one whose source
    is named first is kept."""
    output: str | None = None
    """Corpus folder. Default: `<work_dir>/corpus`."""
    clean: CleanConfig = field(default_factory=CleanConfig)
    """Passages to take out of documents."""
    filters: FilterConfig = field(default_factory=FilterConfig)
    """Rules that drop poor documents."""
    phi: PhiConfig = field(default_factory=PhiConfig)
    """Identifiers of people."""
    decontaminate: DecontaminateConfig = field(default_factory=DecontaminateConfig)
    """Benchmark questions to keep out. Default: none are looked for."""
    dedup: DedupConfig = field(default_factory=DedupConfig)
    """Which documents count as the same; exact copies always do."""
    train_classifier: TrainClassifierConfig = field(default_factory=TrainClassifierConfig)
    """Learning what medical text is."""
    validation_fraction: float = 0.03
    """Share of each source's documents held out, chosen by their hash; a source of two documents or
    more holds out at least one unless this is 0."""
    max_bad_fraction: float = 0.001
    """Stop when more than this share of the records cannot be read."""
    executor: Literal["local", "slurm", "ray"] = "local"
    """Who runs the tasks: processes here, arrays of SLURM jobs with the settings of `launch`, which this
    command submits and waits for, or Ray (`RAY_ADDRESS`, else this machine). The output does not depend on
    it."""
    workers: int = 1
    """Tasks at the same time, by any executor; the output does not depend on it."""
    task_memory_gb: float = 2.0
    """Memory that a task asks SLURM or Ray for, GB; more for long documents and many filters."""
    chunk_megabytes: float = 64.0
    """Input size of one task, the unit of parallel work and of resuming. Output files follow it, so
    the corpus is cut differently (with the same documents) when it changes."""
    part: int | None = None
    """Read only this part of the input, counted from 0, of `parts` equal ones, and stop: for jobs on several
    machines. A run without it reads what is left, and finishes the corpus."""
    parts: int = 1
    """Parts that the input is read in, where `part` is set."""
    samples_per_reason: int = 3
    """Excerpts kept per source for each reason of dropping, for the report."""

    def __post_init__(self) -> None:
        _require_fraction("curate.validation_fraction", self.validation_fraction)
        _require_fraction("curate.max_bad_fraction", self.max_bad_fraction, closed=True)
        require(self.workers >= 1, "curate.workers", self.workers, "must be at least 1")
        memory = self.task_memory_gb
        require(memory > 0, "curate.task_memory_gb", memory, "must be positive")
        here = self.part is None or self.executor == "local"
        require(here, "curate.executor", self.executor, "needs no curate.part: it cuts the work itself")
        require(self.chunk_megabytes > 0, "curate.chunk_megabytes", self.chunk_megabytes, "must be positive")
        rule = f"must be from 0 to {self.parts - 1} (curate.parts is {self.parts})"
        require(self.part is None or 0 <= self.part < self.parts, "curate.part", self.part, rule)
        require(self.samples_per_reason >= 0, "curate.samples_per_reason", self.samples_per_reason, "< 0")
        for name in self.sources:
            valid = bool(name) and all(letter.isalnum() or letter in "-_." for letter in name)
            require(valid, "curate.sources", name, "is no source name: use letters, digits, '-', '_', '.'")


def _require_fraction(field_name: str, value: float, closed: bool = False) -> None:
    inside = 0 <= value < 1 or (closed and value == 1)
    require(inside, field_name, value, f"must be at least 0 and {'at most' if closed else 'under'} 1")


@dataclass(kw_only=True)
class TokenizeConfig:
    """Corpus to shards."""

    corpus: str | None = None
    """Corpus folder. Default: what `curate` writes."""
    output: str | None = None
    """Shards folder. Default: `<work_dir>/shards`."""
    tokenizer: str | None = None
    """Tokenizer: folder with `tokenizer.json` or `tokenizer.model`, one such file, or a hub name.
    Default: the base model's."""
    workers: int = 1
    """Processes that encode at the same time; the output does not depend on it."""
    added_tokens: list[str] = field(default_factory=list)
    """Tokens that the tokenizer gets beside its own, such as those that `citations: special_tokens` writes;
    pretraining gives each an embedding row, at first the mean of the others. Needs a `tokenizer.json`."""
    append_eos: bool = True
    """End each document with the end-of-sequence token."""
    batch_megabytes: float = 4.0
    """Text handed to the tokenizer at once; bounds the memory of a worker at a few tens of times this,
    or of the longest document."""

    def __post_init__(self) -> None:
        require(self.workers >= 1, "tokenize.workers", self.workers, "must be at least 1")
        require(
            self.batch_megabytes > 0, "tokenize.batch_megabytes", self.batch_megabytes, "must be positive"
        )
