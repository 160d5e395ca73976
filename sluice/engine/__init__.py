"""The engine: one model, one paged KV pool, one batch; read `contract.py` first, then `engine.py`."""
