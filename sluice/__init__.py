"""Sluice serves language models on separate pools of prefill and decode workers; read docs/architecture.md first."""
