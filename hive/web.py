"""What the dashboard's port answers: a fixed list of pages, and facts as JSON. Read-only."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

PAGES = {"/": ("index.html", "text/html"), "/style.css": ("style.css", "text/css"),
         "/hive.js": ("hive.js", "text/javascript")}
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
                               "form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Web:
    """Routes of the dashboard's port. `state` gives the current facts, `folder` is the run's."""

    def __init__(self, state: Callable[[], Dict[str, Any]], folder: Path):
        self.state, self.folder = state, folder
        self.here = Path(__file__).resolve().parent

    def find(self, path: str) -> Optional[Tuple[str, bytes]]:
        """Content type and content of a path, None when there is nothing."""
        if path in PAGES:
            name, kind = PAGES[path]
            return f"{kind}; charset=utf-8", (self.here / name).read_bytes()
        if path == "/api/state":
            return "application/json", json.dumps(self.state(), allow_nan=False).encode()
        if path == "/healthz":
            return "text/plain; charset=utf-8", b"ok\n"
        if path in ("/last.pt", "/best.pt") and (self.folder / path[1:]).exists():
            return "application/octet-stream", (self.folder / path[1:]).read_bytes()
        return None

    def answer(self, connection: Any, request: Any) -> Any:
        """For websockets' `process_request`: a response, or None at /hive, where peers may join."""
        from websockets.datastructures import Headers
        from websockets.http11 import Response
        path = request.path.split("?")[0]
        if path == "/hive":
            return None
        found = self.find(path)
        status, reason = (200, "OK") if found else (404, "Not Found")
        kind, content = found or ("text/plain; charset=utf-8", b"There is nothing here.\n")
        headers = Headers({**HEADERS, "Content-Type": kind, "Content-Length": str(len(content)),
                           "Connection": "close"})
        return Response(status, reason, headers, content)
