"""The demo: a small corpus of our own in real formats, and a real base model to train on it."""
