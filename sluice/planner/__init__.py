"""How many of which GPUs serve a workload within its objectives at least cost."""
