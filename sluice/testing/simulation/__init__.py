"""Deterministic fault simulation: the real router and worker code on one virtual clock."""
