"""Names the embeddings that a model directory makes: its configuration, its image processor, its weights by sample.

Encode workers load one half of a model and prefill workers the other; both read this of the same files, so that
embeddings of another checkpoint or of other processor settings are refused at the handshake. Not a security
boundary: it catches another checkpoint, not a forgery.
"""

import hashlib
from pathlib import Path
from typing import Final

FINGERPRINT_CHARACTERS: Final = 32
SAMPLES_PER_FILE: Final = 64
SAMPLE_BYTES: Final = 4096
_TEXTS: Final = ("config.json", "preprocessor_config.json")


def vision_fingerprint(directory: Path, *, dtype: str) -> str:
    """32 hexadecimal digits; another for another `dtype`. Files that are not there count as empty."""
    digest = hashlib.sha256(dtype.encode())
    for name in _TEXTS:
        path = directory / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    for path in sorted(directory.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for number in range(SAMPLES_PER_FILE):
                file.seek(number * size // SAMPLES_PER_FILE)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:FINGERPRINT_CHARACTERS]
