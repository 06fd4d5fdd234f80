"""What others wrote, made fit to be shown."""
from __future__ import annotations

import re
import unicodedata

INVISIBLE = frozenset(  # letters and symbols that show as nothing
    "\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\U0001d159")
ESCAPE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, cursor movements
                    r"|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
                    r"|\x1b[ -/]*[0-~]?")  # titles, links, device strings; the rest


def shown(text: object, longest: int = 200) -> str:
    """Text from outside, made fit for a terminal: printable, on one line, of limited length, in one
    direction, without sequences that a terminal obeys."""
    plain = ESCAPE.sub("", str(text)[: 8 * longest])
    kept = "".join(c if unicodedata.category(c)[0] in "LNPSM" and c not in INVISIBLE
                   else " " if c.isspace() else "" for c in plain)
    line = " ".join(kept.split())
    return line if len(line) <= longest else line[: longest - 3].rstrip() + "..."
