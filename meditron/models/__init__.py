"""Model definitions, presets, options, and conversion between Hugging Face and Megatron-core."""
