"""A receiving worker in a process of its own, for tests that kill, stop or outlive it.

Usage: transport_peer.py <backend> <boot> <region_bytes> <grant hex>. Prints one JSON line with
what a sender must know, lets the grant write everywhere, then waits for a line on stdin: prints
the region's CRC-32 for each, and leaves at its end.
"""

import json
import sys
import zlib

import numpy as np

from sluice.domain.ids import BootId
from sluice.kv_transfer.backends import open_backends
from sluice.kv_transfer.memory import allocate
from sluice.kv_transfer.transport import Descriptors


def main() -> None:
    backend, boot, size, grant = sys.argv[1], sys.argv[2], int(sys.argv[3]), bytes.fromhex(sys.argv[4])
    memory = allocate(size, shared=True)
    transport = open_backends([backend], boot=BootId(boot), host="127.0.0.1").transports[0]
    transport.register(memory.region())
    whole = np.asarray([0], dtype=np.int64)
    transport.allow(lease_s=60.0, grant=grant, ranges=Descriptors(whole, whole, np.asarray([size], dtype=np.int64)))
    print(json.dumps({"info": transport.local_info().hex(), "shm": memory.shm_name}), flush=True)
    for _ in sys.stdin:
        print(zlib.crc32(memory.view), flush=True)
    transport.close()
    memory.close()


if __name__ == "__main__":
    main()
