"""What an option is, and the registry of all options. Imports nothing heavy: recipes are read through it."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args, get_type_hints

import yaml

from meditron.config.check import suggest
from meditron.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from meditron.config.recipe import Recipe
    from meditron.models.architecture import Architecture
    from meditron.models.safetensors_folder import WeightSource


@dataclass(frozen=True, kw_only=True)
class ModelOption:
    """An option's configuration, and its answers to those who build, train and export models.

    Every method has a default that changes nothing, so an option states only what it changes. Shapes of
    the data path: M micro-batches, B samples, S regular tokens, T slots.
    """

    name: ClassVar[str] = ""
    """Name in recipes; set by `register_option`."""
    goes_with: ClassVar[frozenset[str]] = frozenset()
    """Names of the options that it can be combined with."""
    layerwise: ClassVar[bool] = True
    """Whether every layer stays a function of the one before it alone; proofs then hold one layer at a time.
    False where layers are repeated, skipped or see one another, so that whole models are compared."""

    def check_recipe(self, recipe: "Recipe") -> None:
        """Refuse a recipe whose other settings contradict the option; raises ConfigError."""

    def extend(self, architecture: "Architecture") -> "Architecture":
        """The model with this option, made from one without it."""
        from dataclasses import replace

        return replace(architecture, options=(*architecture.options, self))

    def hf_config(self) -> dict[str, Any]:
        """What the option adds to `config.json`, its class and `auto_map` among it."""
        return {}

    @classmethod
    def from_hf_config(cls, config: Mapping[str, Any]) -> "ModelOption | None":
        """The option that a `config.json` has, None where it lacks it."""
        return None

    def save_code(self, folder: Path) -> None:
        """Write the modelling files that `auto_map` names, for machines without this package."""

    def save_tokens(self, folder: Path) -> None:
        """Add the option's tokens to the tokenizer in `folder`, where it lacks them."""

    def weights(self, weights: "WeightSource", base: "Architecture") -> "WeightSource":
        """The tensors of the extended model, made from those of the model without the option."""
        return weights

    def adapt_hf_layer(self, layer: "nn.Module") -> None:
        """Change a `LlamaDecoderLayer`, in place, to what the option computes over slots."""

    def adapt_hf_model(self, model: Any) -> None:  # noqa: ANN401 - transformers is not typed
        """Change a `LlamaForCausalLM`, in place, to what is trained over slots: its layers, unless the option
        changes more."""
        for layer in model.model.layers:
            self.adapt_hf_layer(layer)

    def adapt_layer_spec(self, spec: Any) -> Any:  # noqa: ANN401 - megatron is not typed
        """Megatron's `ModuleSpec` of one layer, with the option."""
        return spec

    def adapt_megatron_model(self, model: Any) -> None:  # noqa: ANN401
        """Change this rank's `GPTModel`, in place, where the option changes more than its layers."""

    @property
    def probe_length(self) -> int:
        """Slots that a comparison of two forms of the model must have to show the option at work."""
        return 0

    def insert(self, inputs_MBS: "Tensor", labels_MBS: "Tensor", ignore: int) -> "tuple[Tensor, Tensor]":
        """Tokens and labels as the model takes them, [M, B, T]; `ignore` marks positions without loss."""
        return inputs_MBS, labels_MBS

    def register_with_transformers(self) -> None:
        """Let transformers' Auto classes know the option's classes, without `trust_remote_code`."""


Option = TypeVar("Option", bound=type[ModelOption])
_REGISTRY: dict[str, type[ModelOption]] = {}


def register_option(name: str) -> Callable[[Option], Option]:
    """Register the decorated configuration class as the option `name`."""

    def register(cls: Option) -> Option:
        assert name not in _REGISTRY or _REGISTRY[name].__module__ == cls.__module__, f"two options {name!r}"
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return register


@cache
def known_options() -> dict[str, type[ModelOption]]:
    """All options by name: every folder beside this file is one, and its `config.py` registers it."""
    package = __package__ or "meditron.models.options"
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.ispkg:
            importlib.import_module(f"{package}.{module.name}.config")
    return _REGISTRY


def parse_options(settings: Mapping[str, Any]) -> tuple[ModelOption, ...]:
    """The options that `model.options` of a recipe means, in its order.

    Raises:
        ConfigError: an unknown option or setting, an impossible value, or two options that cannot be
            combined.
    """
    options = tuple(_parse(name, values) for name, values in settings.items())
    check_combination(options)
    return options


def _parse(name: str, values: Any) -> ModelOption:  # noqa: ANN401 - whatever the recipe holds
    known = known_options()
    if name not in known:
        raise ConfigError(f"model.options: unknown option {name!r}{suggest(name, known)}")
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise ConfigError(f"model.options.{name}: must map settings to values, not be {values!r}")
    hints = get_type_hints(known[name])
    names = [f.name for f in fields(known[name])]
    typed = {}
    for key, value in values.items():
        where = f"model.options.{name}.{key}"
        if key not in names:
            raise ConfigError(f"{where}: is unknown{suggest(str(key), names)}")
        typed[key] = _typed(where, value, hints[key])
    return known[name](**typed)


def _typed(where: str, value: Any, hint: Any) -> Any:  # noqa: ANN401 - a value and a type of any kind
    """The value, held against its type; the command line gives text that is read as YAML."""
    allowed = get_args(hint) or (hint,)
    if isinstance(value, str) and str not in allowed:
        value = yaml.safe_load(value)
    if type(value) is int and float in allowed and int not in allowed:
        value = float(value)
    if type(value) not in allowed:
        names = " or ".join("null" if one is type(None) else one.__name__ for one in allowed)
        raise ConfigError(f"{where}: {value!r} must be {names}")
    return value


def check_combination(options: tuple[ModelOption, ...]) -> None:
    """Refuse two options that do not know how to go together; raises ConfigError."""
    for number, option in enumerate(options):
        for other in options[:number]:
            if other.name not in option.goes_with and option.name not in other.goes_with:
                raise ConfigError(
                    f"model.options: {other.name} and {option.name} cannot be combined; leave one out"
                )


def settings_of(options: tuple[ModelOption, ...]) -> dict[str, dict[str, Any]]:
    """The inverse of `parse_options`, with every default filled in."""
    return {option.name: asdict(option) for option in options}


def options_from_hf(config: Mapping[str, Any]) -> tuple[ModelOption, ...]:
    """The options that a Hugging Face `config.json` has."""
    found = (cls.from_hf_config(config) for cls in known_options().values())
    return tuple(option for option in found if option is not None)


def register_with_transformers() -> None:
    """Let transformers load exported folders of every option without `trust_remote_code`."""
    for cls in known_options().values():
        cls().register_with_transformers()
