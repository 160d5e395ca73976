"""What the API server notes of its pods' calls: who asked for what, and what the answer was.

Calls of Kubernetes' own parts are left out, and bodies. Never judges: `tests/e2e/test_release.py` does.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True, slots=True, order=True)
class Noted:
    """One kind of call; `group` "" is the core group, `resource` has its subresource behind a slash."""

    verb: str
    group: str
    resource: str
    status: int
    source: str  # the pod's address


def write_policy(path: Path) -> None:
    """The file that `--audit-policy-file` names."""
    path.write_text(json.dumps(POLICY, indent=1), encoding="ascii")


def read_log(path: Path, *, namespace: str) -> set[Noted]:
    """Every kind of call that pods of `namespace` made; a line that is being written is left out."""
    found = set()
    group = f"system:serviceaccounts:{namespace}"
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.endswith("}"):
            continue
        event = json.loads(line)
        if "objectRef" in event and group in event["user"]["groups"]:
            found.add(_noted(event))
    return found


def _noted(event: dict[str, Any]) -> Noted:
    about, status = event["objectRef"], event.get("responseStatus")
    resource = "/".join(about[key] for key in ("resource", "subresource") if key in about)
    code = int((status or {}).get("code", 0))
    return Noted(str(event["verb"]), str(about.get("apiGroup", "")), resource, code, event["sourceIPs"][0])
