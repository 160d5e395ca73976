"""Images: from bytes to embeddings that a language model reads in place of its image tokens."""
