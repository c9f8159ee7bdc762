"""Options of a model: methods of research, each in a folder of its own.

An option is a folder here with a `config.py` whose configuration class is registered under the name that
recipes use (`model.options: {<name>: {...}}`). Nothing else lists options: the folder is found, its
configuration is read, and whoever builds, trains or exports a model asks the option (`ModelOption`) for
its part.
"""

from meditron.models.options.base import (
    ModelOption,
    options_from_hf,
    parse_options,
    register_option,
    register_with_transformers,
)

__all__ = [
    "ModelOption",
    "options_from_hf",
    "parse_options",
    "register_option",
    "register_with_transformers",
]
