"""How a service is reached: the endpoint clients use, the name workers dial, and who may reach workers. Pure."""

from sluice.operator import names
from sluice.operator.accept import AcceptedService
from sluice.operator.manifest import Kind, Manifest, head


def endpoint_service(service: AcceptedService) -> Manifest:
    """The Service clients use; only routers that can serve are behind it."""
    return {
        **head(Kind.SERVICE, service.name, namespace=service.namespace, labels=names.service_labels(service.name)),
        "spec": {"type": "ClusterIP", "selector": names.router_selector(service.name), "ports": _router_ports()},
    }


def discovery_service(service: AcceptedService) -> Manifest:
    """The headless Service whose addresses workers dial: routers without a worker too, or none would come."""
    return {
        **head(
            Kind.SERVICE,
            names.discovery_name(service.name),
            namespace=service.namespace,
            labels=names.service_labels(service.name),
        ),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": names.router_selector(service.name),
            "ports": _router_ports(),
        },
    }


def worker_network_policy(service: AcceptedService) -> Manifest:
    """Workers are reached by workers of the same service, and on the metrics port by anyone."""
    selector = names.worker_selector(service.name)
    return {
        **head(
            Kind.NETWORK_POLICY,
            names.worker_account_name(service.name),
            namespace=service.namespace,
            labels=names.service_labels(service.name),
        ),
        "spec": {
            "podSelector": {"matchLabels": selector},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": {"matchLabels": selector}}]},
                {"ports": [{"port": names.PORT_METRICS, "protocol": "TCP"}]},
            ],
        },
    }


def _router_ports() -> list[Manifest]:
    return [
        {"name": "http", "port": names.PORT_HTTP, "targetPort": "http", "protocol": "TCP"},
        {"name": "grpc", "port": names.PORT_GRPC, "targetPort": "grpc", "protocol": "TCP"},
    ]
