"""The wire: protobuf messages, channels, status mapping. Only `convert.py` and its siblings here touch generated code's fields."""
