"""Pieces of HTTP: what was asked for, and what an answer is made of."""
from __future__ import annotations

import json
from typing import Dict, List, NamedTuple, Optional, Protocol
from urllib.parse import parse_qs

HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
                               "form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Connection": "close",
}
COMPILES = {  # of a worker's script: what it may do besides is to compile WebAssembly
    "Content-Security-Policy": HEADERS["Content-Security-Policy"]
                               + "; script-src 'self' 'wasm-unsafe-eval'"}
REASONS = {200: "OK", 304: "Not Modified", 400: "Bad Request", 403: "Forbidden",
           404: "Not Found", 405: "Method Not Allowed", 421: "Misdirected Request",
           426: "Upgrade Required", 431: "Request Header Fields Too Large",
           500: "Internal Server Error", 503: "Service Unavailable"}
MOST = 10**15  # the largest number that a request may contain
PIECE_BYTES = 256 * 1024  # of a file that each download has in memory


class Refusal(Exception):
    """The answer is no: an HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class File(Protocol):
    """Large content that is read in pieces of PIECE_BYTES."""

    size: int

    def piece(self, start: int) -> bytes: ...


class Fields(Protocol):
    """The headers of a request."""

    def get_all(self, key: str) -> List[str]: ...


class Reply(NamedTuple):
    kind: str  # content type
    content: bytes = b""
    status: int = 200
    headers: Dict[str, str] = {}
    file: Optional[File] = None  # instead of the content, when it is large

    @property
    def size(self) -> int:
        return self.file.size if self.file else len(self.content)

    @property
    def all_headers(self) -> Dict[str, str]:
        return {**HEADERS, "Content-Type": self.kind, "Content-Length": str(self.size),
                **self.headers}

    def head(self) -> bytes:
        """As it goes over the wire, before the content."""
        lines = [f"HTTP/1.1 {self.status} {REASONS[self.status]}",
                 *(f"{name}: {value}" for name, value in self.all_headers.items())]
        return "".join(line + "\r\n" for line in (*lines, "")).encode()


class Query:
    """What follows the question mark. Raises Refusal for what makes no sense."""

    def __init__(self, text: str):
        try:
            self.values = parse_qs(text, max_num_fields=10)
        except ValueError:
            raise Refusal(400, "There are too many fields after the question mark.") from None

    def text(self, name: str) -> str:
        return self.values.get(name, [""])[0]

    def number(self, name: str, least: int, most: int = MOST) -> Optional[int]:
        """A whole number, None when it is not there."""
        text = self.text(name)
        if not text:
            return None
        good = text.isascii() and text.isdecimal() and len(text) < 17
        known = f"from {least} to {most}" if most < MOST else f"of at least {least}"
        demand(good and least <= int(text) <= most, 400, f"{name} must be a whole number {known}.")
        return int(text)


def the_only(headers: Fields, name: str) -> Optional[str]:
    values = headers.get_all(name)
    demand(len(values) <= 1, 400, f"There is more than one {name} header.")
    return values[0] if values else None


def demand(condition: bool, status: int, sentence: str) -> None:
    if not condition:
        raise Refusal(status, sentence)


def as_refusal(status: int, sentence: str) -> Reply:
    headers = {503: {"Retry-After": "2"}, 405: {"Allow": "GET, HEAD"}}.get(status, {})
    content = json.dumps({"error": sentence}, separators=(",", ":")).encode()
    return Reply("application/json", content, status, headers)
