"""A DSSE envelope: a statement with an Ed25519 signature over its bytes and its type.

Source: the DSSE protocol, version 1, with PAE(type, body) as what is signed.
"""

import base64
import binascii
import hashlib
import json
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from veil_spec.refusals import Refusal, Refused

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"


def _refused(path: Path, remedy: str) -> Refused:
    return Refused(Refusal.MODE_UNAVAILABLE, f"--key {path} {remedy}")


def private_key(path: Path) -> Ed25519PrivateKey:
    """Return the key that a PEM file holds, without a passphrase. Refuses: MODE_UNAVAILABLE."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        remedy = "is no private key in PEM without a passphrase: `openssl genpkey -algorithm ed25519`"
        raise _refused(path, remedy) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _refused(path, "is a key of another kind: `openssl genpkey -algorithm ed25519`")
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """Return the public key that a PEM file holds. Refuses: MODE_UNAVAILABLE."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _refused(path, "is no public key in PEM: `openssl pkey -pubout`") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _refused(path, "is a key of another kind: a signature here is Ed25519")
    return key


def pae(kind: str, body: bytes) -> bytes:
    """Return what is signed: type and body, each after its length."""
    named = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(named), named, len(body), body)


def key_id(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of a public key as DER, in hexadecimal digits."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def sealed(payload: bytes, key: Ed25519PrivateKey) -> str:
    """Return the envelope of a statement, as the text of its file."""
    signature = key.sign(pae(PAYLOAD_TYPE, payload))
    signed = {"keyid": key_id(key.public_key()), "sig": base64.b64encode(signature).decode()}
    made = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [signed],
    }
    return json.dumps(made, indent=1) + "\n"


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def opened(envelope: dict[str, Any], named: str) -> tuple[bytes, list[bytes]]:
    """Return an envelope's statement and signatures, which are not checked. Refuses: MODE_UNAVAILABLE."""
    try:
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise ValueError("payloadType")
        signatures = [_bytes(each["sig"]) for each in envelope["signatures"]]
        return _bytes(envelope["payload"]), signatures
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        remedy = f"{named} is no envelope that `veil sign-report` wrote: sign the report again"
        raise Refused(Refusal.MODE_UNAVAILABLE, remedy) from error


def signed_by(key: Ed25519PublicKey, payload: bytes, signatures: list[bytes]) -> bool:
    """Return whether one of the signatures is this key's, over the statement and its type."""
    for signature in signatures:
        try:
            key.verify(signature, pae(PAYLOAD_TYPE, payload))
        except InvalidSignature:
            continue
        return True
    return False
