"""A hive of two peers on this machine: python -m examples.hive_of_two 8765 --rounds 5"""
import contextlib
import subprocess
import sys

port, *options = sys.argv[1:] or ["8765", "--size", "1m", "--minutes", "2"]
if not port.isdigit():
    sys.exit(f"The port comes first, then options of hive/server.py; {port!r} is no port.")

def start(program: str, *words: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", f"hive.{program}", *words])

with contextlib.suppress(KeyboardInterrupt), \
        start("server", "--port", port, "--min-peers", "2", "--name", "two", *options) as server, \
        start("peer", "--server", f"ws://localhost:{port}", "--name", "one") as one, \
        start("peer", "--server", f"ws://localhost:{port}", "--name", "two") as two:
    if server.wait():  # it said what is wrong
        one.terminate()
        two.terminate()
sys.exit(server.returncode)
