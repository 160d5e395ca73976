"""`sluice install --dry-run`: every manifest that makes a cluster run ModelServices, printed for `kubectl apply -f -`.

The chart's objects without Helm: definitions, namespace, account, roles, settings, operator. Applies nothing
itself: what runs as cluster administrator should be read first. Next: `operator/install_manifests.py`.
"""

import argparse
import sys

import yaml

from sluice.errors import InvalidRequestError
from sluice.operator.install_manifests import Installation, install_manifests


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sluice install`."""
    parser.add_argument("--dry-run", action="store_true", help="print the manifests; required, nothing is applied")
    parser.add_argument("--namespace", default="sluice-system", help="where the operator runs (%(default)s)")
    parser.add_argument("--image", default="sluice-control:latest", help="operator and routers (%(default)s)")
    parser.add_argument("--worker-image", default="sluice-worker:latest", help="workers (%(default)s)")
    parser.add_argument("--rules", action="store_true", help="definitions with CEL rules: Kubernetes 1.25 and later")


def run(arguments: argparse.Namespace) -> int:
    """Print YAML documents."""
    if not arguments.dry_run:
        remedy = "add --dry-run and pipe it into `kubectl apply -f -`, or use the Helm chart"
        raise InvalidRequestError(field="sluice install", problem="applies nothing itself", remedy=remedy)
    wanted = Installation(
        namespace=arguments.namespace,
        control_image=arguments.image,
        worker_image=arguments.worker_image,
        with_rules=arguments.rules,
    )
    yaml.safe_dump_all(install_manifests(wanted), sys.stdout, sort_keys=False)
    return 0
