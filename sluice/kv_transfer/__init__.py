"""Moving KV bytes between workers: leased, fenced, verified, never twice; read `transport.py` and `handoff.py` first."""
