"""The shell every worker shares: lifecycle, step loop, router links, KV peers. Read `process.py` last, `step_loop.py` first."""
