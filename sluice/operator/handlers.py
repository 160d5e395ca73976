"""What kopf calls, started by `kopf run -m sluice.operator.handlers --all-namespaces`.

A handler only says which service to look at.

Handlers for events only: kopf writes nothing on objects for those, neither annotations nor finalizers, so a
look that finds nothing to do leaves no trace. Next: `process.py`.
"""

import logging
from typing import Any

import kopf

from sluice.operator import names
from sluice.operator.connection import credentials
from sluice.operator.process import Operator, configure, read_config
from sluice.telemetry import logs

GROUP, VERSION = names.GROUP, names.VERSION
OF_A_SERVICE = {names.LABEL_SERVICE: kopf.PRESENT}


@kopf.on.login()
def login(**_: Any) -> kopf.ConnectionInfo:
    """The same credentials for kopf's watches and for our own calls."""
    return credentials()


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Before any event."""
    config = read_config()
    logs.configure_logs(
        log_format=logs.LogFormat(config.telemetry.log_format),
        level=config.telemetry.log_level,
        service="sluice-operator",
    )
    # Every event and every probe would be a line otherwise.
    for library in ("kopf", "aiohttp.access"):
        logging.getLogger(library).setLevel(logging.WARNING)
    configure(settings)
    memo.operator = Operator(config)
    await memo.operator.start()


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """After the last event."""
    await memo.operator.stop()


@kopf.on.event(GROUP, VERSION, "modelservices")
def on_service(body: kopf.Body, type: str | None, memo: kopf.Memo, **_: Any) -> None:  # noqa: A002 - kopf's
    """A ModelService was seen, made, changed or deleted."""
    memo.operator.service_changed(body, is_gone=type == "DELETED")


@kopf.on.event(GROUP, VERSION, "workerpools")
@kopf.on.event("apps", "v1", "deployments", labels=OF_A_SERVICE)
@kopf.on.event("", "v1", "pods", labels=OF_A_SERVICE)
def on_child(body: kopf.Body, memo: kopf.Memo, **_: Any) -> None:
    """Something that belongs to a ModelService has changed."""
    memo.operator.child_changed(body)


@kopf.on.event(GROUP, VERSION, "gpuclasses")
def on_class(memo: kopf.Memo, **_: Any) -> None:
    """A GPUClass has changed."""
    memo.operator.class_changed()


@kopf.on.event("", "v1", "nodes")
def on_node(body: kopf.Body, type: str | None, memo: kopf.Memo, **_: Any) -> None:  # noqa: A002
    """A node has changed."""
    memo.operator.node_changed(body, is_gone=type == "DELETED")
