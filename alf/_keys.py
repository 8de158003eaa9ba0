"""Private keys and certificates, in the forms in which people have them: the extra ``jwt``."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alf._redaction import Secret, SecretBytes, masked_key

__all__ = [
    "base64url",
    "certificate_thumbprints",
    "import_extra",
    "key_as_pem",
    "load_certificate",
    "load_key",
]

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(?:.+?-----END \1-----)?", re.DOTALL)

_WANTED = {"key": "PEM or a JWK", "certificate": "PEM"}
_UNWANTED = {"key": "neither PEM nor a JWK", "certificate": "not PEM"}


def load_key(key: Any, password: Any = None) -> tuple[Any, Mapping[str, Any]]:
    """Load a private key; returns it with the JWK that it came as, which may be empty.

    :param key: PEM, a JWK as a mapping or as JSON text, the path of a file with either, or a
        private key of ``cryptography``.
    :param password: the password of an encrypted PEM.
    :raises TypeError: the password is not a ``str`` or ``bytes``.
    :raises ValueError: no private key can be read. The message says why, and does not show it.
    :raises ImportError: the extra ``jwt`` is not installed.
    """
    key, password = masked_key(key), masked_key(password)
    if not (password is None or isinstance(password, (str, bytes))):
        message = f"password must be a str or bytes, got {type(password).__name__}"
        raise TypeError(message)
    if isinstance(key, (str, bytes, os.PathLike)):
        text, place = _read("key", key)
        if "-----BEGIN" in text:
            return _from_pem(text, place, password), {}
        key = _parse_jwk(text, place)
    if password is not None:
        message = "password is for an encrypted PEM only: the key is not in PEM"
        raise ValueError(message)
    if isinstance(key, Mapping):
        return _from_jwk(key), key
    return key, {}


def load_certificate(certificate: Any, key: Any = None) -> Any:
    """Load an X.509 certificate.

    :param certificate: PEM, the path of a file with it, or a certificate of ``cryptography``.
    :param key: the private key that it is for; ``None``: unknown. If the PEM has several
        certificates, the one for the key counts, or else the first.
    :raises TypeError: it is something else.
    :raises ValueError: no certificate can be read, or it is for another key.
    :raises ImportError: the extra ``jwt`` is not installed.
    """
    certificate = masked_key(certificate)
    found = [certificate]
    if isinstance(certificate, (str, bytes, os.PathLike)):
        text, place = _read("certificate", certificate)
        found = [_parse_certificate(block, place) for block in _blocks(text, "CERTIFICATE")]
        if not found:
            message = f"certificate: {place} holds {_kind_of(text)}, expected a certificate in PEM"
            raise ValueError(message)
    if not isinstance(found[0], import_extra("cryptography.x509").Certificate):
        message = (
            "certificate must be PEM, the path of a file with it, or a certificate of "
            f"cryptography, got {type(certificate).__name__}"
        )
        raise TypeError(message)
    if key is None:
        return found[0]
    public_key = _public_bytes(key.public_key())
    fitting = [each for each in found if _public_bytes(each.public_key()) == public_key]
    if not fitting:
        message = "certificate: it is for another key, its public key is not that of key="
        raise ValueError(message)
    return fitting[0]


def certificate_thumbprints(certificate: Any) -> dict[str, str]:
    """The header members that name a certificate (RFC 7515 §4.1.7 and §4.1.8)."""
    der = certificate.public_bytes(
        import_extra("cryptography.hazmat.primitives.serialization").Encoding.DER
    )
    sha1 = hashlib.sha1(der, usedforsecurity=False)
    return {
        "x5t": base64url(sha1.digest()),
        "x5t#S256": base64url(hashlib.sha256(der).digest()),
    }


def key_as_pem(key: Any) -> str:
    """The private key as PEM, not encrypted."""
    forms = import_extra("cryptography.hazmat.primitives.serialization")
    pem = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    return Secret(pem, "ascii")


def base64url(value: bytes) -> str:
    """Base64url without padding (RFC 7515 §2)."""
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def import_extra(module: str) -> Any:
    """Import a module of PyJWT or cryptography.

    :raises ImportError: the extra ``jwt`` is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = "signing JWTs needs PyJWT and cryptography: pip install 'alf[jwt]'"
        raise ImportError(message) from error


def _public_bytes(public_key: Any) -> bytes:
    forms = import_extra("cryptography.hazmat.primitives.serialization")
    der: bytes = public_key.public_bytes(
        forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo
    )
    return der


def _read(name: str, value: str | bytes | os.PathLike[str]) -> tuple[Secret, str]:
    """The text that the argument is, or that is in its file, and what to call that place.

    :raises ValueError: there is no such file, or no text in it.
    """
    place = "the value"
    if isinstance(value, bytes):
        content = SecretBytes(value)
    elif isinstance(value, str) and ("-----BEGIN" in value or value.lstrip().startswith("{")):
        return Secret(value), place
    else:
        content, place = _read_file(name, value), f"the file {str(value)!r}"
    if content.startswith(b"\x30"):  # a sequence; that of PKCS #12 begins with its version, 3
        is_pkcs12 = b"\x02\x01\x03" in content[2:9]
        kind = "PKCS #12" if is_pkcs12 else "DER"
        tool = "openssl pkcs12 -nodes" if is_pkcs12 else "openssl pkey -inform DER"
        if name == "certificate" and not is_pkcs12:
            tool = "openssl x509 -inform DER"
        message = (
            f"{name}: {place} holds {kind}, expected {_WANTED[name]}: convert it with '{tool}', "
            "or load it with cryptography and give the object"
        )
        raise ValueError(message)
    return Secret(content.decode("utf-8-sig", "replace")), place


def _read_file(name: str, path: str | os.PathLike[str]) -> SecretBytes:
    try:
        return SecretBytes(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no path"
    # A str that was meant to be a path may be a key, which the error above names.
    place = f"the str is {_UNWANTED[name]}, and as a path"
    message = f"{name}: {place if isinstance(path, str) else path} cannot be read: {reason}"
    raise ValueError(message)


def _blocks(text: str, label: str) -> list[Secret]:
    """The blocks of the PEM whose labels end so."""
    return [Secret(found[0]) for found in _PEM.finditer(text) if found[1].endswith(label)]


def _kind_of(text: str) -> str:
    labels = [found[1].lower() for found in _PEM.finditer(text)]
    return f"a PEM of {labels[0]!r}" if labels else "something else"


def _parse_certificate(pem: str, place: str) -> Any:
    try:
        return import_extra("cryptography.x509").load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        message = f"certificate: a certificate in {place} is damaged"
        raise ValueError(message) from error


def _from_pem(text: str, place: str, password: str | bytes | None) -> Any:
    serialization = import_extra("cryptography.hazmat.primitives.serialization")
    unsupported = import_extra("cryptography.exceptions").UnsupportedAlgorithm
    blocks = _blocks(text, "PRIVATE KEY")
    if not blocks:
        message = f"key: {place} holds {_kind_of(text)}: there is no private key in the PEM"
        raise ValueError(message)
    load = serialization.load_pem_private_key
    if "OPENSSH" in blocks[0][:30]:
        load = serialization.load_ssh_private_key
    secret = SecretBytes(password.encode()) if isinstance(password, str) else password
    try:
        return load(blocks[0].encode(), password=secret)
    except TypeError:
        message = "key: the PEM is encrypted: give its password=, or the decrypted key"
        if secret:
            message = "key: the PEM is not encrypted, but password= is given"
    except (ValueError, unsupported):
        reason = "it is damaged, or of a kind that is not supported"
        message = f"key: there is no private key in the PEM that can be read: {reason}"
        if "\\n" in blocks[0]:
            message = r"key: the PEM has '\n' written out in place of its line breaks"
        elif secret:
            message = f"key: the PEM cannot be decrypted: password= is wrong, or {reason}"
    raise ValueError(message)


def _parse_jwk(text: str, place: str) -> dict[str, Any]:
    try:
        jwk = masked_key(json.loads(text))
    except ValueError:
        jwk = None
    if type(jwk) is not dict:
        message = f"key: expected PEM or a JWK, found neither in {place}"
        raise ValueError(message)
    if "kty" not in jwk and "private_key" in jwk:
        message = f"key: {place} holds JSON that is not a JWK: give its member 'private_key'"
        raise ValueError(message)
    return jwk


def _from_jwk(jwk: Mapping[str, Any]) -> Any:
    load = import_extra("jwt").PyJWK
    import_extra("cryptography")
    try:
        # The algorithm is checked later, in the same way for every form of a key.
        return load({name: value for name, value in jwk.items() if name != "alg"}).key
    except Exception:  # of many kinds, and in their texts there may be the key
        message = "key: there is no key in the JWK that can be read"
    raise ValueError(message)
