"""Speaks plain JSON with any cluster's API server: what tests read, apply, change and delete.

Knows no object's model, so that it works with every version from 1.20 on. Never retries. The
credentials come from a kubeconfig file, in every form that kubectl takes.
"""

import json
from pathlib import Path
from typing import Any

import kubernetes
import urllib3

Document = dict[str, Any]
TIMEOUT_S = 20.0
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
FIELD_MANAGER = "sluice-tests"


class ApiError(RuntimeError):
    """The API server said no, or nothing."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """One API server, one user."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self._client = kubernetes.config.new_client_from_config(str(kubeconfig))
        self._paths: dict[tuple[str, str], tuple[str, bool]] = {}

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Document | None = None,
        content_type: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> Document:
        """One request; the answer's JSON. Raises ApiError."""
        headers = {"Accept": "application/json", "Content-Type": content_type}
        parts = self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            reply = self._client.call_api(*parts, _request_timeout=TIMEOUT_S)
            content = reply.read()
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(0, str(error)) from error
        if reply.status >= 400:
            raise ApiError(reply.status, _message(content))
        answer = json.loads(content) if content[:1] == b"{" else {"text": content.decode()}
        return dict(answer)

    def get(self, path: str) -> Document:
        return self.call("GET", path)

    def items(self, path: str, **query: str) -> list[Document]:
        """A list's items."""
        return list(self.call("GET", path, query=query)["items"])

    def exists(self, path: str) -> bool:
        try:
            self.get(path)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def apply(self, document: Document) -> Document:
        """Server-side apply, taking over every field."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return self.call("PATCH", self.path_of(document), body=document, content_type=APPLY, query=query)

    def merge(self, path: str, change: Document) -> Document:
        """A merge patch."""
        return self.call("PATCH", path, body=change, content_type=MERGE)

    def delete(self, path: str, *, grace_s: int | None = None) -> None:
        """Delete one object, or every object of a list's path; what is gone already is no error."""
        body: Document = {"propagationPolicy": "Background"}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        try:
            self.call("DELETE", path, body=body)
        except ApiError as error:
            if error.status != 404:
                raise

    def path_of(self, document: Document) -> str:
        """The path of an object in its own words."""
        resource, namespaced = self._resource(document["apiVersion"], document["kind"])
        root = _group_root(document["apiVersion"])
        metadata = document["metadata"]
        middle = f"/namespaces/{metadata.get('namespace', 'default')}" if namespaced else ""
        return f"{root}{middle}/{resource}/{metadata['name']}"

    def _resource(self, version: str, kind: str) -> tuple[str, bool]:
        if (version, kind) not in self._paths:
            for one in self.get(_group_root(version))["resources"]:
                if "/" not in one["name"]:
                    self._paths[version, one["kind"]] = (one["name"], one["namespaced"])
        return self._paths[version, kind]


def _group_root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content).get("message", ""))
    except ValueError:
        return content[:300].decode(errors="replace")
