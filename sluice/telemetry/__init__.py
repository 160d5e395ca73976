"""Logs, metrics and traces; each can be off, and off costs nothing."""
