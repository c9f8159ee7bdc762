"""Configuration of pretraining."""

from dataclasses import dataclass, field
from typing import Literal

from meditron.config.check import require

TrackerName = Literal["tensorboard", "wandb", "trackio"]


@dataclass(kw_only=True)
class ParallelConfig:
    """How the model and the batch are cut over processes; one process drives one GPU."""

    tensor_model_parallel_size: int = 1
    """Processes that share each layer's matrices. Must divide the attention heads, the key/value heads
    and the MLP width; best kept within a node."""
    pipeline_model_parallel_size: int = 1
    """Processes that each hold a run of consecutive layers. Must divide the number of layers."""
    virtual_pipeline_model_parallel_size: int | None = None
    """Runs of layers that each pipeline process holds in turn (interleaved 1F1B, arXiv 2104.04473): fewer
    idle moments for more messages. Must divide the layers of a stage; the number of micro-batches must be
    a multiple of `pipeline_model_parallel_size`. Default: one run."""
    data_parallel_size: int = 1
    """Copies of the model that work on different samples. `tensor x pipeline x context x
    data` is the number of processes; under torchrun or srun it must equal the number started."""
    sequence_parallel: bool = False
    """Also cut the activations between the tensor-parallel matrices along the sequence; saves memory
    where `tensor_model_parallel_size` is above 1."""
    distributed_optimizer: bool = True
    """Share out the optimizer's states over the data-parallel processes (ZeRO stage 1), where there are
    several. Of the engine `megatron`; for the other see `pretrain.deepspeed.zero_stage`."""
    overlap_grad_reduce: bool = False
    """Sum gradients over the data-parallel processes while the backward pass goes on, a bucket at a time."""
    overlap_param_gather: bool = False
    """Fetch the updated weights from the other data-parallel processes while the next forward pass goes on.
    Needs `distributed_optimizer` and `overlap_grad_reduce`, whose buckets it uses."""
    ddp_bucket_size: int | None = None
    """Parameters of a bucket of `overlap_grad_reduce`. Default: 40 million, or a million for each
    data-parallel process where that is more (Megatron's)."""
    context_parallel_size: int = 1
    """Processes that share the tokens of a sample, and in the attention its heads instead
    (DeepSpeed-Ulysses, arXiv 2309.14509): for samples whose activations do not fit otherwise. Must divide
    the key/value heads of a tensor-parallel process, and twice of it the sample's length."""

    def __post_init__(self) -> None:
        cuts = ("tensor_model_parallel", "pipeline_model_parallel", "context_parallel", "data_parallel")
        for name in (f"{cut}_size" for cut in cuts):
            require(
                getattr(self, name) >= 1, f"pretrain.parallel.{name}", getattr(self, name), "must be >= 1"
            )
        virtual = self.virtual_pipeline_model_parallel_size
        field_name = "pretrain.parallel.virtual_pipeline_model_parallel_size"
        require(virtual is None or virtual >= 2, field_name, virtual, "must be at least 2")
        staged = virtual is None or self.pipeline_model_parallel_size > 1
        require(staged, field_name, virtual, "needs pipeline_model_parallel_size above 1")
        require(
            not self.sequence_parallel or self.tensor_model_parallel_size > 1,
            "pretrain.parallel.sequence_parallel",
            self.sequence_parallel,
            "needs tensor_model_parallel_size above 1",
        )
        self._check_overlap()

    def _check_overlap(self) -> None:
        gather, fits = self.overlap_param_gather, self.distributed_optimizer and self.overlap_grad_reduce
        rule = "needs distributed_optimizer and overlap_grad_reduce"
        require(fits or not gather, "pretrain.parallel.overlap_param_gather", gather, rule)
        size, field_name = self.ddp_bucket_size, "pretrain.parallel.ddp_bucket_size"
        require(size is None or size >= 1, field_name, size, "must be at least 1")
        require(size is None or self.overlap_grad_reduce, field_name, size, "needs overlap_grad_reduce")

    @property
    def world_size(self) -> int:
        """Number of processes."""
        cut = self.tensor_model_parallel_size * self.pipeline_model_parallel_size
        return cut * self.context_parallel_size * self.data_parallel_size


@dataclass(kw_only=True)
class DeepSpeedConfig:
    """The engine `deepspeed`: what ZeRO shares out over the data-parallel processes, and where it is kept."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """0: nothing is shared out (fp32 only); 1: the optimizer's states; 2: gradients as well; 3: weights as
    well."""
    overlap_comm: bool = True
    """Send gradients while the backward pass goes on, for a second buffer of messages. On GPUs only."""
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Keep the optimizer's states in main memory (stages 1 to 3) or on `nvme_path` (stage 3)."""
    offload_parameters: Literal["none", "cpu", "nvme"] = "none"
    """Keep weights in main memory or on `nvme_path` (stage 3) while they are not used."""
    nvme_path: str | None = None
    """Folder on a local disk for what is offloaded to `nvme`."""

    def __post_init__(self) -> None:
        where, what = "pretrain.deepspeed", (self.offload_optimizer, self.offload_parameters)
        needed = {"none": 0, "cpu": 1, "nvme": 3}[self.offload_optimizer]
        rule = f"needs zero_stage {needed} or more"
        fits = self.zero_stage >= needed
        require(fits, f"{where}.offload_optimizer", self.offload_optimizer, rule)
        fits = self.offload_parameters == "none" or self.zero_stage == 3
        require(fits, f"{where}.offload_parameters", self.offload_parameters, "needs zero_stage 3")
        named = ("nvme" in what) == (self.nvme_path is not None)
        require(named, f"{where}.nvme_path", self.nvme_path, "must be given where something goes to nvme")


@dataclass(kw_only=True)
class OptimizerConfig:
    """AdamW and its learning rate."""

    lr: float = 3e-4
    """Peak learning rate."""
    min_lr: float = 3e-5
    """Learning rate at the end of the decay."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0 to `lr`."""
    decay_style: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """How the learning rate falls from `lr` to `min_lr` between warm-up and the schedule's last step.
    `wsd` (warm-up, stable, decay; arXiv 2404.06395) stays at `lr` and falls linearly over the last
    `decay_steps`."""
    decay_steps: int | None = None
    """Steps of the fall of `wsd`. Default: a tenth of the schedule."""
    schedule_steps: int | None = None
    """Last step of the schedule; later than `pretrain.train_steps`, the run ends on the way down, as
    MEDITRON-7B did (schedule of two epochs, ended after one; arXiv 2311.16079, appendix D.1). Default:
    `pretrain.train_steps`."""
    weight_decay: float = 0.1
    """Decoupled weight decay; not applied to norms."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.95
    """Decay of the second moment."""
    adam_eps: float = 1e-5
    """Added to the denominator of the update (1e-5 as Llama 2 and MEDITRON, arXiv 2311.16079)."""
    clip_grad: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "pretrain.optimizer.lr", self.lr, "must be positive")
        require(0 <= self.min_lr <= self.lr, "pretrain.optimizer.min_lr", self.min_lr, "must be in [0, lr]")
        require(self.warmup_steps >= 0, "pretrain.optimizer.warmup_steps", self.warmup_steps, "is negative")
        for name in ("decay_steps", "schedule_steps"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"pretrain.optimizer.{name}", value, "must be at least 1")
        only_wsd = self.decay_steps is None or self.decay_style == "wsd"
        require(only_wsd, "pretrain.optimizer.decay_steps", self.decay_steps, "needs decay_style wsd")
        require(self.clip_grad >= 0, "pretrain.optimizer.clip_grad", self.clip_grad, "is negative")
        for name in ("adam_beta1", "adam_beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"pretrain.optimizer.{name}", value, "must be at least 0 and under 1")
        require(self.weight_decay >= 0, "pretrain.optimizer.weight_decay", self.weight_decay, "is negative")
        require(self.adam_eps > 0, "pretrain.optimizer.adam_eps", self.adam_eps, "must be positive")


@dataclass(kw_only=True)
class CheckpointConfig:
    """When to save, and what to keep."""

    interval: int = 500
    """Steps between two checkpoints; one is always saved at the end."""
    keep: int = 2
    """Newest checkpoints that stay; older ones are removed after a newer one is whole. 0 keeps all."""
    keep_every: int = 0
    """Checkpoints of steps that are multiples of this stay for good. 0: none does."""
    async_save: bool = False
    """Write while training goes on, which then waits only for a copy of the state in main memory. It needs
    that memory: the checkpoint's size over the processes of a node."""

    def __post_init__(self) -> None:
        require(self.interval >= 1, "pretrain.checkpoint.interval", self.interval, "must be at least 1")
        require(self.keep >= 0, "pretrain.checkpoint.keep", self.keep, "is negative")
        every = self.keep_every
        require(every >= 0, "pretrain.checkpoint.keep_every", every, "is negative")
        reached = every % self.interval == 0
        rule = f"must be a multiple of pretrain.checkpoint.interval ({self.interval})"
        require(reached, "pretrain.checkpoint.keep_every", every, rule)


@dataclass(kw_only=True)
class ValidationConfig:
    """Perplexity on held-out text of each source."""

    interval: int = 500
    """Steps between two validations; there is always one before the first step and one at the end."""
    max_tokens: int = 2_000_000
    """Tokens of each source that are scored; the same ones each time."""

    def __post_init__(self) -> None:
        require(self.interval >= 1, "pretrain.validation.interval", self.interval, "must be at least 1")
        require(self.max_tokens >= 1, "pretrain.validation.max_tokens", self.max_tokens, "must be positive")


@dataclass(kw_only=True)
class FaultConfig:
    """What to do about losses that are not finite or leap, and about processes that hang or lag."""

    max_skipped_in_row: int = 3
    """Steps in a row that are skipped before the run goes back to its last checkpoint and leaves out the
    samples since then."""
    max_rollbacks: int = 3
    """Returns to a checkpoint before the run gives up."""
    loss_spike: Literal["off", "warn", "skip", "rollback"] = "warn"
    """What to do about a loss that leaps: note it in the log, drop the step's gradients (which counts as a
    skipped step), or return to the last checkpoint and leave out the samples since then."""
    loss_spike_zscore: float = 10.0
    """How far above the median of the last losses one leaps, in units of 1.4826 median absolute
    deviations."""
    loss_spike_window: int = 128
    """Number of those last losses; at least 16 must be known."""
    hang_factor: float = 50.0
    """How many median steps one may take before each process writes its stacks to `<run_dir>/logs` and ends
    with exit code 8. The first step, a validation of one source and a checkpoint may take nine tenths of
    `timeout_minutes`, and nothing may take more. 0 writes no stacks and waits for `timeout_minutes` alone."""
    hang_min_seconds: float = 300.0
    """Seconds that a step may take in any case, within nine tenths of `timeout_minutes`."""
    straggler_interval: int = 100
    """Steps between two log lines about the slowest process of each phase. 0 writes none."""

    def __post_init__(self) -> None:
        for name in ("loss_spike_zscore", "hang_min_seconds"):
            require(
                getattr(self, name) > 0, f"pretrain.fault.{name}", getattr(self, name), "must be positive"
            )
        for name in ("hang_factor", "straggler_interval"):
            require(getattr(self, name) >= 0, f"pretrain.fault.{name}", getattr(self, name), "is negative")
        window = self.loss_spike_window
        require(window >= 16, "pretrain.fault.loss_spike_window", window, "must be at least 16")
        for name in ("max_skipped_in_row", "max_rollbacks"):
            require(getattr(self, name) >= 1, f"pretrain.fault.{name}", getattr(self, name), "must be >= 1")


@dataclass(kw_only=True)
class PretrainConfig:
    """Shards to checkpoints."""

    shards: str | None = None
    """Shards folder. Default: what `tokenize` writes."""
    run_dir: str | None = None
    """Run folder. Default: `<work_dir>/pretrain`."""
    engine: Literal["megatron", "deepspeed"] = "megatron"
    """Training engine: megatron-core, or the Hugging Face model under DeepSpeed's ZeRO (needs the extra
    `deepspeed`), which knows data parallelism only."""
    weights: dict[str, float] = field(default_factory=dict)
    """Source to its share of the samples; normalised to sum to 1. A source that is not named is left
    out. Default: every source in proportion to its tokens."""
    upsample: dict[str, float] = field(default_factory=dict)
    """Source to how many times as often it is drawn as `weights`, or its number of tokens, would have it:
    `guidelines: 4` shows it four times while the others are shown once."""
    replay: float | None = None
    """Share of the samples from sources of kind general, whatever their weights, which then say how it is
    divided among them. Default: as the weights have it."""
    sequence_length: int = 2048
    """Tokens of one sample."""
    micro_batch_size: int = 1
    """Samples of one forward and backward pass of one process."""
    global_batch_size: int = 8
    """Samples of one step over all processes; a multiple of `micro_batch_size x data_parallel_size`."""
    train_steps: int = 1000
    """Steps of the whole run, and length of the learning-rate schedule."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Number format of weights and activations; master weights and optimizer states are fp32 always."""
    fp8: bool = False
    """Matrix products of the layers in fp8 (E4M3 forward, E5M2 backward), the rest as `precision: bf16` says.
    Needs the engine `megatron`, TransformerEngine and a GPU of the kind Ada, Hopper or newer."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activation checkpointing: what the backward pass computes again instead of keeping it. `selective`: the
    attention between queries, keys and values (arXiv 2205.05198); `full`: each layer from its input."""
    compile: bool = False
    """Compile each layer with torch.compile. Costs about a minute at the start and needs a C++ compiler on a
    CPU; benchmarks/training_step.md says what it gains."""
    reset_attention_mask: bool = False
    """Keep the documents of a sample apart: no token sees another document, and a document's first token
    is not predicted from the one before it. Positions need no reset, rotary embeddings see distances only."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How the work is cut over processes."""
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    """ZeRO, where `engine` is `deepspeed`."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW and its schedule."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Saving."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Held-out perplexity."""
    fault: FaultConfig = field(default_factory=FaultConfig)
    """Losses that are not finite or leap; processes that hang or lag."""
    deterministic: bool = False
    """Allow only kernels that give the same bits every time, which costs speed on GPUs; on a CPU they do
    anyway."""
    trackers: list[TrackerName] = field(default_factory=list)
    """Services that get the numbers of the log as well, each with an extra of its name. `tensorboard` writes
    to `<run_dir>/tensorboard`; the others take their address and account from their own settings."""
    tracker_project: str = "meditron"
    """Project of wandb and trackio; the run is called after the last two parts of `run_dir`."""
    peak_flops: float | Literal["measured"] | None = None
    """Dense FLOP/s of one device at `precision`, the denominator of MFU: a number, or `measured`, the fastest
    matrix product seen when training starts, all processes at once. Default: the data sheet's value of a
    known GPU (at fp8 that of fp8); on others MFU is not reported."""
    timeout_minutes: float = 30.0
    """Longest wait for the other processes before the run fails; see also `fault.hang_factor`."""

    def __post_init__(self) -> None:
        for name in ("sequence_length", "micro_batch_size", "global_batch_size", "train_steps"):
            require(getattr(self, name) >= 1, f"pretrain.{name}", getattr(self, name), "must be at least 1")
        require(
            self.optimizer.warmup_steps <= self.train_steps,
            "pretrain.optimizer.warmup_steps",
            self.optimizer.warmup_steps,
            f"is more than pretrain.train_steps ({self.train_steps})",
        )
        for name in ("peak_flops", "timeout_minutes"):
            value = getattr(self, name)
            fits = value in (None, "measured") or value > 0
            require(fits, f"pretrain.{name}", value, "must be positive")
        self._check_engine()
        require(not self.fp8 or self.precision == "bf16", "pretrain.fp8", self.fp8, "needs precision bf16")
        hooked = self.compile and self.parallel.overlap_param_gather
        rule = "does not go with parallel.overlap_param_gather, which acts inside the layers"
        require(not hooked, "pretrain.compile", self.compile, rule)
        schedule = self.optimizer.schedule_steps
        rule = f"is less than pretrain.train_steps ({self.train_steps})"
        fits = schedule is None or schedule >= self.train_steps
        require(fits, "pretrain.optimizer.schedule_steps", schedule, rule)
        for source, weight in self.weights.items():
            require(weight >= 0, f"pretrain.weights.{source}", weight, "is negative")
        for source, factor in self.upsample.items():
            require(factor > 0, f"pretrain.upsample.{source}", factor, "must be above 0")
        fits = self.replay is None or 0 < self.replay < 1
        require(fits, "pretrain.replay", self.replay, "must be above 0 and below 1")
        require(
            not self.weights or sum(self.weights.values()) > 0, "pretrain.weights", self.weights, "are all 0"
        )
        per_pass = self.micro_batch_size * self.parallel.data_parallel_size
        require(
            self.global_batch_size % per_pass == 0,
            "pretrain.global_batch_size",
            self.global_batch_size,
            f"must be a multiple of micro_batch_size x data_parallel_size = {self.micro_batch_size} x "
            f"{self.parallel.data_parallel_size} = {per_pass}",
        )
        stages = self.parallel.pipeline_model_parallel_size
        require(
            self.parallel.virtual_pipeline_model_parallel_size is None or self.num_microbatches % stages == 0,
            "pretrain.global_batch_size",
            self.global_batch_size,
            f"makes {self.num_microbatches} micro-batches; virtual pipeline stages need a multiple of "
            f"pipeline_model_parallel_size ({stages})",
        )

    def _check_engine(self) -> None:
        is_megatron = self.engine == "megatron"
        if is_megatron:
            unused = self.deepspeed == DeepSpeedConfig()
            require(unused, "pretrain.deepspeed", self.deepspeed, "is set, but pretrain.engine is megatron")
            return
        layout, rule = self.parallel, "needs pretrain.engine megatron"
        cuts = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
        for name in cuts:
            size = getattr(layout, name)
            require(size == 1, f"pretrain.parallel.{name}", size, rule)
        for name in ("overlap_grad_reduce", "overlap_param_gather"):
            wished = getattr(layout, name)
            require(not wished, f"pretrain.parallel.{name}", wished, rule)
        shared, instead = layout.distributed_optimizer, "for this engine set pretrain.deepspeed.zero_stage"
        require(shared, "pretrain.parallel.distributed_optimizer", shared, f"{rule}; {instead}")
        require(self.recompute != "selective", "pretrain.recompute", self.recompute, rule)
        summed = self.deepspeed.zero_stage > 0 or self.precision == "fp32"  # in fp32, as is promised
        rule_0 = "needs precision fp32; in bf16 use 1, which keeps the sums of gradients in fp32"
        require(summed, "pretrain.deepspeed.zero_stage", self.deepspeed.zero_stage, rule_0)
        for name in ("compile", "fp8"):
            require(not getattr(self, name), f"pretrain.{name}", getattr(self, name), rule)

    @property
    def num_microbatches(self) -> int:
        """Forward and backward passes of each process in one step."""
        return self.global_batch_size // (self.micro_batch_size * self.parallel.data_parallel_size)
