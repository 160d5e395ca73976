"""Settings: one frozen section per process, read once by `load.py`, the only reader of files and environment."""
