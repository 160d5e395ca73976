"""Public profiles, each in its own format, read into step models and curves."""
