"""What only prefill does: reserve at the decode worker, push layer groups while computing, commit."""
