"""The wire: protobuf messages, channels, status mapping. Only this package fills generated messages by hand."""
