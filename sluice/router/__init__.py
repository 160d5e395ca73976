"""The door: OpenAI HTTP and gRPC in, worker streams out; read `flow.py` first."""
