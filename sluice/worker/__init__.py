"""The shell every worker shares: lifecycle, step loop, router links, peers. Read `shell.py` first."""
