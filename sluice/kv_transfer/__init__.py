"""Moving KV bytes between workers: leased, fenced, verified; read `transport.py` and `handoff.py` first."""
