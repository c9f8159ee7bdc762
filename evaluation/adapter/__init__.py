"""The language-model adapter: what lm-eval asks of a model, computed with little repeated work."""
