"""Makes a cluster's certificates and the files with which its parts find and trust each other.

One authority signs all; elliptic keys, since they take no time. Service account tokens alone are
signed with RSA, the only kind that Kubernetes 1.20 takes there. For tests: the keys lie unprotected.
"""

import base64
import datetime as dt
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_DAYS = 365
API_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
PEM = serialization.Encoding.PEM
PLAIN = serialization.NoEncryption()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a certificate is for."""

    name: str
    groups: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


class Authority:
    """Signs certificates and writes them into one folder."""

    def __init__(self, folder: Path, *, now: dt.datetime) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._from = now - dt.timedelta(hours=1)
        self._until = now + dt.timedelta(days=VALID_DAYS)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sluice-test-cluster")])
        ours = self._builder(self._name, self._key.public_key())
        ours = ours.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        ours = ours.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
        self._pem = ours.sign(self._key, hashes.SHA256()).public_bytes(PEM)
        self._write("ca.crt", self._pem)
        self._write("ca.key", _private_pem(self._key))

    def certify(self, file: str, identity: Identity) -> tuple[bytes, bytes]:
        """Write FILE.crt and FILE.key; returns both."""
        key = ec.generate_private_key(ec.SECP256R1())
        groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in identity.groups]
        subject = x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, identity.name)])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = self._builder(subject, key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(usage, critical=False).add_extension(issuer, critical=False)
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in identity.dns]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in identity.addresses]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(PEM)
        self._write(f"{file}.crt", certificate)
        self._write(f"{file}.key", _private_pem(key))
        return certificate, _private_pem(key)

    def kubeconfig(self, file: str, identity: Identity, *, server: str) -> Path:
        """Write FILE.kubeconfig, with which `identity` talks to the API server."""
        certificate, key = self.certify(file, identity)
        cluster = {"server": server, "certificate-authority-data": _text(self._pem)}
        user = {"client-certificate-data": _text(certificate), "client-key-data": _text(key)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "sluice-test",
            "clusters": [{"name": "sluice-test", "cluster": cluster}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "sluice-test", "context": {"cluster": "sluice-test", "user": "user"}}],
        }
        return self._write(f"{file}.kubeconfig", json.dumps(document, indent=1).encode())

    def service_account_keys(self) -> None:
        """Write sa.key and sa.pub, which sign and check pods' tokens."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._write("sa.key", key.private_bytes(PEM, serialization.PrivateFormat.TraditionalOpenSSL, PLAIN))
        public = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        self._write("sa.pub", public)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(self._from).not_valid_after(self._until)

    def _write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path


def make_pki(
    folder: Path,
    *,
    server: str,
    api_addresses: Sequence[str],
    nodes: Sequence[tuple[str, str]],
    now: dt.datetime,
) -> None:
    """Everything a cluster with these nodes (name, address) needs, into `folder`."""
    authority = Authority(folder, now=now)
    dns = (*API_NAMES, f"{API_NAMES[-1]}.cluster.local")
    authority.certify("apiserver", Identity("kube-apiserver", dns=dns, addresses=tuple(api_addresses)))
    authority.certify("apiserver-kubelet", Identity("kube-apiserver-kubelet-client", groups=("system:masters",)))
    authority.certify("front-proxy", Identity("front-proxy-client"))
    authority.service_account_keys()
    users = {
        "admin": Identity("kubernetes-admin", groups=("system:masters",)),
        "controller-manager": Identity("system:kube-controller-manager"),
        "scheduler": Identity("system:kube-scheduler"),
        "proxy": Identity("system:kube-proxy"),
    }
    for file, identity in users.items():
        authority.kubeconfig(file, identity, server=server)
    for name, address in nodes:
        kubelet = Identity(f"system:node:{name}", groups=("system:nodes",))
        authority.kubeconfig(f"kubelet-{name}", kubelet, server=server)
        authority.certify(f"kubelet-server-{name}", Identity(name, dns=(name,), addresses=(address,)))


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
