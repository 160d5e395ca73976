"""Where `--model` points: a directory, or a hub id that is downloaded once; checked before anything starts.

Looks at every file of the model but reads no weights, so that a missing or broken file is one
message now and not one from each worker later. Next: `fleet_options.py`.
"""

import re
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from sluice.engine.model_files import check_model_files
from sluice.errors import ConfigError
from sluice.text import tokenizer

HUB_ID: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
HUB_FILES: Final = ("*.json", "*.safetensors", "*.jinja")


def find_model(name: str) -> Path:
    """The directory of the model called `name`, whole as far as headers tell.

    Raises ConfigError if there is none, ModelLoadError naming the file that is missing or broken.
    """
    path = Path(name).expanduser()
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--model: {path} is a file; give the directory that holds config.json")
    if not path.is_dir():
        path = _download(name)
    directory = path.resolve()
    check_model_files(directory)
    tokenizer.load(directory)
    return directory


def _download(name: str) -> Path:
    """A copy of a hub model in the hub's own cache; the library shows how far it is."""
    if not HUB_ID.fullmatch(name):
        raise ConfigError(f"--model: {name} is not there; give a directory with config.json, or a hub id (owner/name)")
    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"--model: {name} is not a directory here and the hub does not give it ({_first_line(error)}); "
            "check the name, or download it where there is a network and give its directory"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
