"""Fakes and drivers for tests and benchmarks: a fake engine, a fake worker, process helpers."""
