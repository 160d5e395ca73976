"""Prints the operator's permissions as the RBAC rules that the chart's roles are made of.

`python -m sluice.operator.permissions_yaml` rewrites `charts/sluice/files/permissions.yaml`; a test compares.
Grants nothing by itself. Next: `permissions.py`, which says why each line is there.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml

from sluice.operator.permissions import (
    CLUSTER_PERMISSIONS,
    NAMED_NAMESPACES_PERMISSIONS,
    OWN_NAMESPACE_PERMISSIONS,
    SERVICE_NAMESPACE_PERMISSIONS,
    Permission,
)

TARGET: Final = Path(__file__).parents[2] / "charts" / "sluice" / "files" / "permissions.yaml"
SCOPES: Final = {
    "everyNamespace": SERVICE_NAMESPACE_PERMISSIONS,
    "cluster": CLUSTER_PERMISSIONS,
    "namedNamespaces": NAMED_NAMESPACES_PERMISSIONS,
    "ownNamespace": OWN_NAMESPACE_PERMISSIONS,
}


def rules(permissions: Iterable[Permission]) -> list[dict[str, Any]]:
    """RBAC rules, in the order of the list."""
    return [
        {"apiGroups": [one.group], "resources": list(one.resources), "verbs": list(one.verbs)} for one in permissions
    ]


def text() -> str:
    """The whole file."""
    head = "# Printed by `python -m sluice.operator.permissions_yaml` from sluice/operator/permissions.py.\n"
    return head + yaml.safe_dump({scope: rules(found) for scope, found in SCOPES.items()}, sort_keys=False)


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
