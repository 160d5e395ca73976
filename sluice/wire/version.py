"""The version of the wire, and what each version changed.

1: first. Two processes talk only if their versions are equal.
"""

from typing import Final

WIRE_VERSION: Final = 1
