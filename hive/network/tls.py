"""The certificate of both ports, and whether peers will trust it."""
from __future__ import annotations

import ssl
from typing import Any, Dict, List, NamedTuple, Optional

from gltch_2_7m import GltchError, require

Certificate = Dict[str, Any]  # as `getpeercert` gives it
PARTIAL_CHAIN = 0x80000  # OpenSSL's X509_V_FLAG_PARTIAL_CHAIN: trust what is in the file, as it is


class Tls(NamedTuple):
    file: str
    context: ssl.SSLContext
    names: List[str]  # that the certificate is for, the first one first; empty if it is not valid

    def trusted_as(self, name: str) -> bool:
        """Does a program that knows only the system's authorities take us for this name?"""
        return shake_hands(self.context, ssl.create_default_context(), name) is not None


def load(cert: Optional[str], key: Optional[str]) -> Optional[Tls]:
    """None without a certificate. The key may be in the same file. Raises GltchError."""
    if cert is None:
        require(key is None, "--tls-key belongs to a certificate: add --tls-cert.")
        return None
    for option, path in (("--tls-cert", cert), ("--tls-key", key or cert)):
        try:
            open(path, "rb").close()
        except OSError as error:
            raise GltchError(f"{option} {path} cannot be read: {error.strerror}.") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def ask() -> str:
        raise GltchError(f"The key in {key or cert} is protected by a passphrase: take it off, for "
                         "example with `openssl pkey`.")

    try:
        context.load_cert_chain(cert, key, password=ask)
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):
            raise GltchError(f"--tls-key {key or cert} is not the key of the certificate in {cert}."
                             ) from None
        raise GltchError(f"There is no certificate with its key in {cert}"
                         f"{f' and {key}' if key else ': the key may need --tls-key'}; both must be"
                         " in PEM format.") from None
    return Tls(cert, context, names_in(cert, context))


def names_in(cert: str, context: ssl.SSLContext) -> List[str]:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= PARTIAL_CHAIN
    client.load_verify_locations(cert)
    found = shake_hands(context, client)
    return [] if found is None else [str(name) for _, name in found.get("subjectAltName", ())]


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: Optional[str] = None
                ) -> Optional[Certificate]:
    """Both sides of a handshake in memory: the certificate as the client sees it, or None when the
    client does not trust it."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(10):  # messages to and fro; it takes three
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return None
            if side is theirs:
                return theirs.getpeercert()
    return None
