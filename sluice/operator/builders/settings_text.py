"""Settings as the text of a ConfigMap.

Pure; equal settings are written out once, for every look asks for them. Next: `worker_workload.py`.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any, Final

from sluice.config import load

TEXTS_MAX: Final = 4096


def settings_text(values: Mapping[str, Any]) -> str:
    """A settings file's text, as `sluice router` and `sluice worker` read it."""
    return _text(json.dumps(values))


@functools.lru_cache(maxsize=TEXTS_MAX)
def _text(values: str) -> str:
    return load.to_yaml(json.loads(values))
