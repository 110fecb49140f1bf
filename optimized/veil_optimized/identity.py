"""Who an enclave and a dealer are to each other: a key, a self-signed certificate, and the peer's, pinned."""

import os
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from veil_spec.refusals import Refusal, Refused

NAME: Final = "veil"
"""The name in every certificate: a peer is known by its key, not by where it listens."""
BEGINS: Final = datetime(2000, 1, 1, tzinfo=UTC)
ENDS: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""A pin ends when it is removed; 9999 is how a certificate says that it states no end (RFC 5280, 4.1.2.5)."""
IDENTITY_FILE: Final = "identity.pem"
CERTIFICATE_FILE: Final = "certificate.pem"
PEM_LIMIT: Final = 2**16
"""Most bytes of a file of keys: a certificate of this module has less than 1,000."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key and its certificate, both PEM; the key is in no representation of it."""

    key: bytes = field(repr=False)
    certificate: bytes

    @property
    def pem(self) -> bytes:
        """Return both in one text, the key first: a secret."""
        return self.key + self.certificate


@dataclass(frozen=True, slots=True)
class Credentials:
    """One end of a stream between an enclave and a dealer: who it is, and the one peer that it talks to."""

    identity: Identity
    peer: bytes

    def of_client(self) -> grpc.ChannelCredentials:
        """Return credentials that accept a server with the pinned certificate alone. Implements: RMO-P4."""
        return grpc.ssl_channel_credentials(self.peer, self.identity.key, self.identity.certificate)

    def of_server(self) -> grpc.ServerCredentials:
        """Return credentials that accept a client with the pinned certificate alone. Implements: RMO-P4."""
        own = [(self.identity.key, self.identity.certificate)]
        return grpc.ssl_server_credentials(own, self.peer, require_client_auth=True)


def make() -> Identity:
    """Return a new identity: a P-256 key from the operating system's generator, self-signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGINS)
        .not_valid_after(ENDS)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(uses, critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Identity(secret, certificate.public_bytes(Encoding.PEM))


def write(identity: Identity, folder: Path) -> tuple[Path, Path]:
    """Return two new files in a folder: the identity, readable by its owner alone, and its certificate.

    Refuses: MODE_UNAVAILABLE.
    """
    folder.mkdir(parents=True, exist_ok=True)
    secret, public = folder / IDENTITY_FILE, folder / CERTIFICATE_FILE
    for path, content, mode in ((secret, identity.pem, 0o600), (public, identity.certificate, 0o644)):
        try:
            made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError as error:
            raise Refused(Refusal.MODE_UNAVAILABLE, f"{path} exists already: name a new folder") from error
        with open(made, "wb") as file:
            file.write(content)
    return secret, public


def load(path: Path) -> Identity:
    """Return the identity in a file that `write` made. Refuses: MODE_UNAVAILABLE."""
    with path.open("rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise Refused(Refusal.MODE_UNAVAILABLE, f"--identity {path} is readable by others: chmod 600 it")
        return parse(file.read(PEM_LIMIT), f"--identity {path}")


def load_certificate(path: Path) -> bytes:
    """Return the one certificate in a file. Refuses: MODE_UNAVAILABLE."""
    with path.open("rb") as file:
        return certificate(file.read(PEM_LIMIT), f"--peer {path}")


def parse(pem: bytes, named: str) -> Identity:
    """Return the identity in a text of a key and its certificate. Refuses: MODE_UNAVAILABLE."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise _unreadable(named) from error
    own = certificate(pem, named)
    if x509.load_pem_x509_certificate(own).public_key() != key.public_key():
        raise Refused(Refusal.MODE_UNAVAILABLE, f"{named} has a key and another key's certificate")
    return Identity(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), own)


def certificate(pem: bytes, named: str) -> bytes:
    """Return the only certificate in a text, PEM. Refuses: MODE_UNAVAILABLE."""
    try:
        (only,) = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise _unreadable(named) from error
    return only.public_bytes(Encoding.PEM)


def _unreadable(named: str) -> Refused:
    remedy = (
        f"{named} is not what `veil identity --out DIR` writes: name {IDENTITY_FILE} or {CERTIFICATE_FILE}"
    )
    return Refused(Refusal.MODE_UNAVAILABLE, remedy)
