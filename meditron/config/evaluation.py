"""Configuration of evaluation."""

from dataclasses import dataclass, field
from typing import Any, Literal

from meditron.config.check import require, require_choice

FORMATS = ("medqa", "pubmedqa", "medmcqa", "mmlu", "table", "passkey")
"""Forms of questions; `table` is any JSONL or CSV, read as `columns` says; `passkey` needs no file."""
KINDS = ("letter", "answer", "generate", "cot", "vote")
CHAT_SUFFIX = "-chat"
PROTOCOLS = (*KINDS, *(f"{kind}{CHAT_SUFFIX}" for kind in KINDS))
"""Ways of asking; each is described in docs/evaluating.md."""


@dataclass(kw_only=True)
class ColumnsConfig:
    """Where the parts of a question are in a file of format `table`."""

    question: str = "question"
    """Key or column of the question."""
    options: str | list[str] | None = None
    """Key of a list of options, or the names of one column each. Default: `options` where a record has it,
    else the columns A, B, C, ..."""
    answer: str = "answer"
    """Key or column of the answer: a letter, a number counted from `first_answer`, or the text of the
    right option."""
    context: str | None = None
    """Key or column of a text that precedes the question. Default: none."""
    subject: str | None = None
    """Key or column that accuracies are also given by. Default: none."""
    id: str | None = None
    """Key or column of the question's name. Default: its line, and the file where there are several."""


@dataclass(kw_only=True)
class PasskeyConfig:
    """Pass-key retrieval: a fact hidden in a long text (arXiv 2305.16300, section 4.2)."""

    text: Literal["filler", "record"] = "filler"
    """What hides it: filler (a number among the paper's sentences about grass and sky) or record (the drug
    that a patient must not get, among the daily notes of a long hospital stay)."""
    lengths: list[int] = field(default_factory=lambda: [512, 1024])
    """Lengths of prompt and answer in words, marks and digits; the tokens of a Llama are about as many."""
    questions: int = 20
    """Questions of each length; the fact lies at depths evenly spread over the text."""

    def __post_init__(self) -> None:
        key = "evaluate.tasks.passkey"
        valid = bool(self.lengths) and all(length >= 64 for length in self.lengths)
        require(valid, f"{key}.lengths", self.lengths, "must name lengths of at least 64")
        require(self.questions >= 1, f"{key}.questions", self.questions, "must be at least 1")


@dataclass(kw_only=True)
class TaskConfig:
    """One set of multiple-choice questions."""

    format: str
    """Form of the file: medqa (JSON or JSONL, any number of options), pubmedqa (JSON by PMID), medmcqa
    (JSON lines with `cop`), mmlu (folder of CSV files), table (any JSONL or CSV with 2 to 10 options),
    passkey (made up, no file)."""
    path: str | list[str] = ""
    """File or files, relative to `data_root`; for mmlu the folder that holds `test`, `dev`, `val`. Also
    `hub:owner/name:split` or `hub:owner/name:configuration:split`, a data set of the Hugging Face hub. Not
    used by passkey."""
    ground_truth: str | None = None
    """pubmedqa: JSON file of PMID to label; only these questions are asked. Default: all that have a
    `final_decision`."""
    subjects: list[str] = field(default_factory=list)
    """mmlu: subjects, or the groups medical-6, medical-9 and all. Default: all."""
    split: str = "test"
    """mmlu: folder of the questions."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """table: where the parts of a question are."""
    first_answer: int = 1
    """medqa, medmcqa and table: number of the first option, where answers are numbers (`cop` is 1-based in
    the original files and 0-based on the hub)."""
    passkey: PasskeyConfig = field(default_factory=PasskeyConfig)
    """passkey: how long the texts are."""
    limit: int | None = None
    """Ask only so many questions, drawn evenly over the file (of mmlu: over each subject's). Default: all.
    Not for passkey, which has `passkey.questions`."""
    shots: int = 0
    """Solved examples before each question; refused where there are fewer to draw from."""
    shots_path: str | list[str] | None = None
    """File or files of the same form that the examples are drawn from; for mmlu, which draws them by
    subject, the split folder's name. Default: `dev` for mmlu; needed for the others."""
    seeds: list[int] = field(default_factory=list)
    """Draw the examples once with each of these seeds, and give mean and standard deviation. Default: the
    recipe's seed alone. MEDITRON used 1234, 432 and 32."""
    rotate_options: bool = False
    """Ask again with the options in every rotated order, where a protocol shows them (letter, generate):
    how much the choice depends on the place. Costs as much again for each option."""
    instruction: str | None = None
    """Text at the head of each prompt. Default: the format's own."""

    def __post_init__(self) -> None:
        require_choice(self.format, FORMATS, "evaluate.tasks.format")
        has_files = self.format != "passkey"
        require(bool(self.path) or not has_files, "evaluate.tasks.path", self.path, "must name a file")
        on_hub = any(path.startswith("hub:") for path in self.paths)
        rule = "mmlu reads a folder of CSV files; read the hub's as format table"
        require(self.format != "mmlu" or not on_hub, "evaluate.tasks.path", self.path, rule)
        require(has_files or not self.shots, "evaluate.tasks.shots", self.shots, "has no use for passkey")
        limit = self.limit
        rule = "has no use for passkey; set evaluate.tasks.passkey.questions"
        require(has_files or limit is None, "evaluate.tasks.limit", limit, rule)
        require(limit is None or limit > 0, "evaluate.tasks.limit", limit, "must be positive")
        require(self.shots >= 0, "evaluate.tasks.shots", self.shots, "is negative")
        first = self.first_answer
        require(first in (0, 1), "evaluate.tasks.first_answer", first, "must be 0 or 1")
        complete = self.shots == 0 or self.format == "mmlu" or bool(self.shots_path)
        require(complete, "evaluate.tasks.shots", self.shots, "needs evaluate.tasks.shots_path to draw from")

        unique = len(set(self.seeds)) == len(self.seeds)
        require(unique, "evaluate.tasks.seeds", self.seeds, "names a seed twice")
        require(
            not self.seeds or self.shots > 0, "evaluate.tasks.seeds", self.seeds, "needs evaluate.tasks.shots"
        )

    @property
    def paths(self) -> list[str]:
        """`path` as a list."""
        return _as_list(self.path)

    @property
    def shots_paths(self) -> list[str]:
        """`shots_path` as a list."""
        return _as_list(self.shots_path)


def _as_list(value: str | list[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


@dataclass(kw_only=True)
class PerplexityConfig:
    """Perplexity on the held-out documents of a corpus, by source."""

    enabled: bool = True
    """Measure it."""
    corpus: str | None = None
    """Corpus folder whose `validation/` is read. Default: what `curate` writes."""
    max_characters: int | None = None
    """Read documents of each source, in their order, up to so many characters: the same text for every
    model. Default: all."""
    window: int = 1024
    """Tokens of one window; a longer document is cut into windows, each conditioned on nothing before
    it but one token."""
    contexts: list[int] = field(default_factory=list)
    """Measure long documents with windows of these lengths (tokens) as well: what a longer context is worth.
    Long are the documents of at least the longest window, so that all windows see the same text; a model
    reads no window longer than its own limit. Default: none."""
    resamples: int = 10_000
    """Bootstrap samples of documents for the 95 % interval."""

    def __post_init__(self) -> None:
        most = self.max_characters
        require(most is None or most > 0, "evaluate.perplexity.max_characters", most, "must be positive")
        require(self.window > 1, "evaluate.perplexity.window", self.window, "must be at least 2")
        rising = self.contexts == sorted(set(self.contexts)) and min(self.contexts, default=2) > 1
        require(rising, "evaluate.perplexity.contexts", self.contexts, "must rise and be at least 2")
        require(self.resamples > 0, "evaluate.perplexity.resamples", self.resamples, "must be positive")


@dataclass(kw_only=True)
class GenerationConfig:
    """How answers are generated, in the protocols `generate`, `cot` and `vote`."""

    max_tokens: int = 32
    """Longest answer of `generate`, in tokens."""
    reasoning_tokens: int = 256
    """Longest answer of `cot` and `vote`, in tokens; MEDITRON used 1,024."""
    samples: int = 5
    """Answers to each question whose majority is the answer of `vote`."""
    temperature: float = 0.8
    """Temperature of the samples of `vote`; all else is generated greedily."""
    batch_size: int = 8
    """Answers that are generated at the same time; changes speed and memory. Models of other types than Llama
    write one after the other, and vLLM makes batches of its own: both without regard to this."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "reasoning_tokens", "samples", "batch_size"):
            value = getattr(self, name)
            require(value >= 1, f"evaluate.generation.{name}", value, "must be at least 1")
        temperature = self.temperature
        require(temperature > 0, "evaluate.generation.temperature", temperature, "must be positive")


@dataclass(kw_only=True)
class VariantConfig:
    """A model with other settings of inference."""

    model: str
    """Label of the model in `evaluate.models`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Entries of its `config.json` that are changed when it is loaded, such as `landmark_top_k: 2`."""


@dataclass(kw_only=True)
class EvaluateConfig:
    """Benchmarks and perplexity."""

    output: str | None = None
    """Results folder, with one folder for each model. Default: `<work_dir>/results`."""
    models: dict[str, str] = field(default_factory=dict)
    """Label of each model to its Hugging Face folder. Default: `base` (model.base), `pretrained` (what
    `export` writes) and `finetuned` (what `finetune` writes), as far as the recipe has them."""
    variants: dict[str, VariantConfig] = field(default_factory=dict)
    """Label of each model that is evaluated again with other settings of inference to what they are."""
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    """Name of each set of questions to where and how it is read."""
    protocols: list[str] = field(default_factory=lambda: ["letter", "answer"])
    """Ways of asking, side by side: letter (options shown, likelihood of their letters), answer (options
    not shown, likelihood of their texts by length), generate (the answer is read from a generated text), cot
    (after thinking step by step), vote (majority of several such answers); with `-chat` at the end in the
    model's chat template."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """How answers are generated."""
    perplexity: PerplexityConfig = field(default_factory=PerplexityConfig)
    """Perplexity by source."""
    contamination: str | None = None
    """Report of curation (`contamination.jsonl`): questions that were found in its sources are marked, and
    accuracy is also given without them. Default: that of `curate.output`, where it is there."""
    max_bad_fraction: float = 0.001
    """Stop when more than this share of a file's questions cannot be used."""
    device: str = "auto"
    """Where the model runs: auto (a GPU where there is one), cpu, cuda (each of several processes on one of
    its own), cuda:1, ... (one process alone)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the weights and activations; softmax is always float32. auto: float32 on a CPU,
    bfloat16 on a GPU."""
    backend: Literal["torch", "vllm"] = "torch"
    """What computes plain Llama models: torch (this program's own adapter), or vllm where it is installed,
    over all GPUs that it sees."""
    batch_tokens: int | None = None
    """Tokens of one forward pass; changes speed and memory. Without effect with vLLM, which makes batches of
    its own. Default: 512 on a CPU, 8192 on a GPU."""
    nproc: int = 1
    """Processes to start on this machine, one a GPU where there are any; they share the answers of each
    model. Ignored inside a process that another launcher started as one of several."""
    part: int | None = None
    """Answer only this share of the questions, counted from 0, of `parts` equal ones, and keep the answers
    for an evaluation without it: for jobs on several machines."""
    parts: int = 1
    """Shares of the questions; `part` says which of them."""
    max_length: int | None = None
    """Longest prompt with its answer in tokens; longer prompts lose their beginning, and are counted.
    Default: the model's own limit."""
    trust_remote_code: bool = False
    """Run the modelling file that a model folder brings; not needed for the options of this
    package."""

    def __post_init__(self) -> None:
        require(bool(self.protocols), "evaluate.protocols", self.protocols, "names no protocol")
        for protocol in self.protocols:
            require_choice(protocol, PROTOCOLS, "evaluate.protocols")
        unique = len(set(self.protocols)) == len(self.protocols)
        require(unique, "evaluate.protocols", self.protocols, "names a protocol twice")
        fraction = self.max_bad_fraction
        require(0 <= fraction <= 1, "evaluate.max_bad_fraction", fraction, "must be between 0 and 1")
        require(self.nproc >= 1, "evaluate.nproc", self.nproc, "must be at least 1")
        require(self.parts >= 1, "evaluate.parts", self.parts, "must be at least 1")
        whole = self.part is not None or self.parts == 1
        require(whole, "evaluate.parts", self.parts, "needs evaluate.part: which of them this is, from 0")
        part, rule = self.part, f"must be from 0 to {self.parts - 1} (evaluate.parts is {self.parts})"
        require(part is None or 0 <= part < self.parts, "evaluate.part", part, rule)
        rule = "is one GPU for all processes of evaluate.nproc; set it to cuda or auto"
        require(self.nproc == 1 or ":" not in self.device, "evaluate.device", self.device, rule)
        alone = self.backend != "vllm" or self.nproc == 1
        require(alone, "evaluate.nproc", self.nproc, "must be 1 with backend vllm, which takes all GPUs")
        for name in ("batch_tokens", "max_length"):
            value = getattr(self, name)
            require(value is None or value >= 16, f"evaluate.{name}", value, "must be at least 16")
        for label, variant in self.variants.items():
            rule = "is changed by no entry; name one, such as landmark_top_k"
            require(bool(variant.settings), f"evaluate.variants.{label}.settings", variant.settings, rule)
            rule = "computes every model as its config.json says; set evaluate.backend to torch"
            require(self.backend != "vllm", f"evaluate.variants.{label}", self.backend, rule)
        for kind, names in (("models", self.models), ("variants", self.variants), ("tasks", self.tasks)):
            for name in names:
                valid = bool(name) and all(letter.isalnum() or letter in "-_." for letter in name)
                rule = "cannot name a file: use letters, digits, '-', '_', '.'"
                require(valid and name[0] != ".", f"evaluate.{kind}", name, rule)

    def check_variants(self) -> None:
        """Refuse a variant of a model that is not evaluated; raises ConfigError."""
        for label, variant in self.variants.items():
            require_choice(variant.model, self.models, f"evaluate.variants.{label}.model")
            is_new = label not in self.models
            require(is_new, "evaluate.variants", label, "is a model's label; choose another")
