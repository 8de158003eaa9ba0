"""Client certificates, as files that requests reads."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from pathlib import Path
from typing import Any

__all__ = ["check_cert", "thumbprint"]

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def check_cert(cert: Any) -> Any:
    """Check a client certificate in the form that requests takes.

    :raises TypeError: it is neither a path nor a pair of paths (certificate, key).
    :raises ValueError: it is the text of a certificate or key.
    """
    is_pair = isinstance(cert, tuple) and len(cert) == 2
    paths: tuple[Any, ...] = cert if is_pair else (cert,)
    if cert is not None and not all(isinstance(path, (str, os.PathLike)) for path in paths):
        message = (
            "token_cert must be the path of a file with certificate and key, or a pair of paths, "
            f"got {type(cert).__name__}"
        )
        raise TypeError(message)
    if cert is None:
        return None
    texts = tuple(os.fspath(path) for path in paths)
    if any("-----BEGIN" in text for text in texts):
        message = (
            "token_cert must be the path of a file, or a pair of paths, got the content of a file"
        )
        raise ValueError(message)
    return texts if is_pair else texts[0]


def thumbprint(cert: str | tuple[str, str]) -> str:
    """The certificate's SHA-256 thumbprint (RFC 8705 §3.1), or its path if it cannot be read."""
    path = cert[0] if isinstance(cert, tuple) else cert
    try:
        found = _CERTIFICATE.search(Path(path).read_text("ascii", "replace"))
        der = ssl.PEM_cert_to_DER_cert("" if found is None else found[0])
    except (OSError, ValueError):
        return str(path)
    return hashlib.sha256(der).hexdigest()
