"""The nouns every package shares: ids, roles, requests, sampling, KV geometry, load. No I/O, no decisions."""
