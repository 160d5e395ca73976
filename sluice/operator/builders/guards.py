"""Disruption budgets and accounts: what may not be taken away, and who the pods are. Pure."""

from typing import Literal

from sluice.operator import names
from sluice.operator.accept import AcceptedPool, AcceptedService
from sluice.operator.manifest import Kind, Manifest, head

BudgetKind = Literal[Kind.DISRUPTION_BUDGET, Kind.DISRUPTION_BUDGET_BETA]


def pool_budget(service: AcceptedService, pool: AcceptedPool, *, replicas: int, kind: BudgetKind) -> Manifest:
    """One worker of a pool may be evicted at a time, for the others take its requests; a single one may not.

    Where the single worker's node is to be emptied, the operator brings up another first.
    """
    selector = names.pool_selector(service.name, pool.name)
    name = names.pool_name(service.name, pool.name)
    labels = {**names.service_labels(service.name), **selector}
    return {
        **head(kind, name, namespace=service.namespace, labels=labels),
        "spec": {"maxUnavailable": 1 if replicas > 1 else 0, "selector": {"matchLabels": selector}},
    }


def router_budget(service: AcceptedService, *, kind: BudgetKind) -> Manifest:
    """One router at a time, where there are several; a single one may go: its streams end before it does."""
    selector = names.router_selector(service.name)
    labels = {**names.service_labels(service.name), **selector}
    return {
        **head(kind, names.router_name(service.name), namespace=service.namespace, labels=labels),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector}},
    }


def accounts(service: AcceptedService) -> tuple[Manifest, Manifest]:
    """ServiceAccounts of routers and workers. Neither may do anything; no token is mounted."""
    router, worker = names.router_name(service.name), names.worker_account_name(service.name)
    labels = names.service_labels(service.name)
    return _account(service, router, labels), _account(service, worker, labels)


def _account(service: AcceptedService, name: str, labels: dict[str, str]) -> Manifest:
    return {
        **head(Kind.SERVICE_ACCOUNT, name, namespace=service.namespace, labels=labels),
        "automountServiceAccountToken": False,
    }
