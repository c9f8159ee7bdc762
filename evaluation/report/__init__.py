"""`meditron report`: one self-contained HTML page about a run, from what its stages left on disk."""
