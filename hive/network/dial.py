"""How a peer reaches its coordinator: addresses, certificates, and what may answer instead."""
from __future__ import annotations

import inspect
import ipaddress
import re
import socket
import ssl
from typing import Any, Dict, Optional
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect

from gltch_2_7m import GltchError, require
from hive.network.words import shown

OPEN_SECONDS = 20.0  # for the connection, TLS and HTTP together
QUEUE = 16  # frames that wait to be read; then the network has to wait
FRAGMENTS = 4096  # of one message
CHECK = "check how it is written, and that this machine is online"
LONGEST_RETRY_AFTER = 300.0  # seconds; we do not wait longer, whatever the answer says


class Answered(Exception):
    """An HTTP server answers, but opens no WebSocket."""

    def __init__(self, response: Any):
        self.status = int(response.status_code)
        self.location = shown(response.headers.get("Location", ""))
        wait = response.headers.get("Retry-After", "")
        asked = float(wait) if re.fullmatch("[0-9]{1,9}", wait) else 0.0  # it may be a date
        self.wait = min(asked, LONGEST_RETRY_AFTER)
        super().__init__(f"HTTP {self.status}")

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in (408, 425, 429) or self.status >= 500

    def sentence(self, server: str) -> str:
        if 300 <= self.status < 400:
            where = f" to {self.location!r}" if self.location else ""
            return (f"{server} sends its callers on{where} (HTTP {self.status}), and peers do not "
                    "follow: give the coordinator's own address.")
        return (f"{server} answers, but is no hive (HTTP {self.status}): peers join at the "
                "coordinator's port (8765), or at /hive of its dashboard's port (8080).")


class Misdirected(Exception):
    """This address leads nowhere, or to somebody else. It may pass for who was in the hive before:
    his network may be away. For all others the address is wrong."""


class Connection(ClientConnection):
    """A WebSocket that follows no redirect and collects no endless message."""

    fragments = 0

    def handshake(self, *args: Any, **settings: Any) -> None:
        try:
            super().handshake(*args, **settings)
        except InvalidStatus as error:  # websockets would follow redirects
            raise Answered(error.response) from None

    def process_event(self, event: Any) -> None:
        if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self.fragments = 0 if event.fin else self.fragments + 1
            if self.fragments > FRAGMENTS:
                self.close_socket()
                return
        super().process_event(event)


def open_connection(server: str, certificates: Optional[ssl.SSLContext], *, max_size: int,
                    ping_timeout: float) -> Connection:
    """A WebSocket to the coordinator. Raises GltchError for an address that cannot be one,
    Answered, Misdirected, and OSError or WebSocketException for what may pass."""
    # Since version 15 peers ping too, and a slow uplink answers late. Older ones have no queue.
    newer = {"ping_timeout": ping_timeout, "max_queue": QUEUE}
    known = inspect.signature(connect).parameters
    settings: Dict[str, Any] = {name: value for name, value in newer.items() if name in known}
    try:
        connection: Connection = connect(
            server, compression=None, max_size=max_size, ssl=certificates,
            open_timeout=OPEN_SECONDS, close_timeout=2, create_connection=Connection, **settings)
        return connection
    except ssl.SSLCertVerificationError as error:
        raise Misdirected(f"The certificate of {server} cannot be trusted "
                         f"({shown(error.verify_message).rstrip('.')}): if it is your own, give it "
                         "with --tls-ca FILE; otherwise this is not the hive you meant.") from None
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:  # whoever knows names is out of reach
            raise
        raise Misdirected(f"Nobody knows the name in {server}: {CHECK}.") from None
    except (InvalidURI, OverflowError) as error:
        raise GltchError(no_address(server, error)) from None
    except ValueError as error:
        require("port" not in str(error).lower(), no_address(server, error))
        raise ConnectionError(f"it does not answer like a hive: {shown(error)}") from None


def no_address(server: str, error: Exception) -> str:
    reason = shown(error).rstrip(".")
    return f"--server {server!r} is not an address ({reason}): write it like ws://host:8765."


def trusted_certificates(server: str, file: Optional[str]) -> Optional[ssl.SSLContext]:
    """The system's certificates and those in the file. Raises GltchError without any there."""
    if not server.startswith("wss://"):
        require(file is None, "--tls-ca is for an address that begins with wss://.")
        return None
    context = ssl.create_default_context()
    if file is not None:
        try:
            context.load_verify_locations(file)
        except ssl.SSLError:
            raise GltchError(f"--tls-ca {file!r} holds no certificates: it takes PEM text, with "
                             "lines that say BEGIN CERTIFICATE.") from None
        except OSError as error:
            raise GltchError(f"--tls-ca {file!r} cannot be read: {error.strerror}.") from None
    return context


def in_clear(server: str) -> str:
    """A warning if others could read along on the way to this address, else nothing."""
    try:
        host = urlsplit(server).hostname or ""
    except ValueError as error:
        raise GltchError(no_address(server, error)) from None
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost" or host.endswith(".localhost")
    if here or not host or server.startswith("wss://"):
        return ""
    return (f"The text and what is learned travel to {host} readable, and changeable, by anyone on "
            "the way: beyond a network you trust, use wss://.")


# What a coordinator answers to TLS, and what an older one does, which hangs up.
NO_TLS = ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING")


def describe(error: Exception) -> str:
    """Why there is no conversation, in a few words."""
    if isinstance(error, ConnectionClosed):
        frame = error.rcvd
        if frame is None:
            return "the connection broke"
        told = frame.code in (1008, 1013) and shown(frame.reason)  # refused, or no place
        return told or "the coordinator stopped"
    if isinstance(error, socket.gaierror):
        return f"its name cannot be looked up now: {CHECK}"
    if isinstance(error, ssl.SSLError) and error.reason in NO_TLS:
        return "nobody speaks TLS there, does the address begin with ws://?"
    return shown(getattr(error, "strerror", None) or error) or type(error).__name__
