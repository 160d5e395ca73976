"""How to reach the API server and as whom: from a pod's service account, or from a kubeconfig.

kopf finds and reads the credentials, for itself and for us, so both always talk to the same server.
Never keeps a password longer than the connection. Next: `api_cluster.py`.
"""

import base64
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import kopf

from sluice.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One server and one identity. The token may have to be read anew when the server refuses it."""

    server: str
    headers: dict[str, str]
    tls: ssl.SSLContext | None


def credentials() -> kopf.ConnectionInfo:
    """What kopf finds here. Raises ConfigError when there is neither a service account nor a kubeconfig."""
    settings = kopf.OperatorSettings()
    found = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
    if found is None:
        raise ConfigError("KUBECONFIG: no cluster is configured here; set it to a kubeconfig file")
    return found


def connection(info: kopf.ConnectionInfo) -> Connection:
    """Headers and TLS for aiohttp."""
    headers = {}
    if info.token:
        headers["Authorization"] = f"Bearer {info.token}"
    elif info.username and info.password:
        headers["Authorization"] = aiohttp.BasicAuth(info.username, info.password).encode()
    tls = _tls(info) if info.server.startswith("https:") else None
    return Connection(server=info.server.rstrip("/"), headers=headers, tls=tls)


def _tls(info: kopf.ConnectionInfo) -> ssl.SSLContext:
    context = ssl.create_default_context(
        cafile=_text(info.ca_path), cadata=_decoded(info.ca_data) if info.ca_data else None
    )
    if info.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if info.certificate_path and info.private_key_path:
        context.load_cert_chain(str(_text(info.certificate_path)), _text(info.private_key_path))
    elif info.certificate_data and info.private_key_data:
        # The ssl module takes certificates from files only.
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = Path(folder, "certificate"), Path(folder, "key")
            key.touch(mode=0o600)
            certificate.write_text(_decoded(info.certificate_data), encoding="ascii")
            key.write_text(_decoded(info.private_key_data), encoding="ascii")
            context.load_cert_chain(certificate, key)
    return context


def _text(path: object) -> str | None:
    if path is None:
        return None
    return path.decode() if isinstance(path, bytes) else str(path)


def _decoded(data: str | bytes) -> str:
    return base64.b64decode(data).decode("ascii")
