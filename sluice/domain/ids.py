"""Names for every identifier, so that mypy keeps them apart."""

from typing import NewType

RequestId = NewType("RequestId", str)
"""One client request; the `id` in OpenAI responses."""

SequenceId = NewType("SequenceId", int)
"""One output of a request (choice 0 … n-1): 64 bits, unique among all routers for their lifetime."""

RouterId = NewType("RouterId", str)
"""One router process, this incarnation."""

WorkerId = NewType("WorkerId", str)
"""One worker's stable name, e.g. `prefill-0`."""

BootId = NewType("BootId", str)
"""One incarnation of a worker: a restarted worker is a new peer."""

BlockId = NewType("BlockId", int)
"""Index of a block in one worker's KV pool."""

BlockHash = NewType("BlockHash", bytes)
"""16 bytes naming a whole prefix up to a unit boundary; see `domain/block_hash.py`."""

TransferId = NewType("TransferId", int)
"""One handoff's transfer, unique within the sending worker's incarnation."""

Epoch = NewType("Epoch", int)
"""Which owner of a sequence is current; granted by the router, older ones are ignored."""
