"""Raw medical documents to a corpus, and a corpus to shards of tokens."""
