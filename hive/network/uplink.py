"""A peer's uplink: what it says and sends goes out in a thread of its own, in order, so that
neither training nor listening waits for a slow line."""
from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Deque, Iterator, Optional, Union

from hive.network.sockets import Frame, Line

LAST_WORDS_SECONDS = 5.0  # for what waits to go out, once the connection is to end


@dataclass
class Blob:
    name: str
    chunks: Iterator[bytes]


class Uplink:
    """Of one connection; used in a `with` statement."""

    def __init__(self, line: Line):
        self.line = line
        self.bytes = 0  # that went out
        self.sent: Deque[str] = deque()  # names of blobs that went out whole
        self.error: Optional[Exception] = None  # what ended it
        self._waiting: SimpleQueue[Union[Frame, Blob, None]] = SimpleQueue()
        self._ending = False
        self._thread = threading.Thread(target=self._send_all, daemon=True)

    def send(self, message: Frame) -> None:
        self._waiting.put(message)

    def send_blob(self, name: str, chunks: Iterator[bytes]) -> None:
        self._waiting.put(Blob(name, chunks))

    def __enter__(self) -> Uplink:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        """The last words go out; what is left of a blob does not."""
        self._ending = True
        self._waiting.put(None)
        self._thread.join(LAST_WORDS_SECONDS)

    def _send_all(self) -> None:
        try:
            while True:
                one = self._waiting.get()
                if one is None:
                    return
                if isinstance(one, Blob):
                    self._send_blob(one)
                else:
                    self._send(one)
        except Exception as error:  # of any kind: the thread that owns the connection raises it
            self.error = error

    def _send_blob(self, blob: Blob) -> None:
        for chunk in blob.chunks:
            if self._ending:
                return
            self._send(chunk)
        self.sent.append(blob.name)

    def _send(self, message: Frame) -> None:
        self.line.send(message)
        self.bytes += len(message)
