"""Python programs that start at once: forks of a process that has imported PyTorch already.

Importing takes a program longer than most tests do. What a fork runs is the program itself, in a
process of its own, with its own arguments, environment, folder and output; only other people's
packages are there when it begins. `Fork` has of subprocess.Popen what the tests use.
"""
import atexit
import contextlib
import functools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile

IMPORTED = ("torch", "torch._dynamo", "websockets.asyncio.server", "websockets.sync.client")
POSSIBLE = sys.platform == "linux" and sys.version_info >= (3, 9)  # packets, and files in them
LONGEST = 100_000  # bytes that describe a program


class Fork:
    """A program that runs: `command` is a file and its arguments. Words and errors go into a pipe,
    `stdout`, unless there are files for them."""

    def __init__(self, command, cwd, env, output=None, nice=0, errors=None, stdin=None):
        self.args, self.returncode, self.stdout = command, None, None
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if output is None:
            reading, writing = os.pipe()
            self.stdout = open(reading, "rb", buffering=0)
        else:
            writing = os.dup(output.fileno())
        described = json.dumps({"command": command, "cwd": cwd, "env": env, "nice": nice}).encode()
        assert len(described) < LONGEST
        with open(os.devnull, "rb") as nothing:
            socket.send_fds(nursery(env.get("OMP_NUM_THREADS")), [described],
                            [theirs.fileno(), (stdin or nothing).fileno(), writing,
                             errors.fileno() if errors else writing])
        theirs.close()
        os.close(writing)
        self.pid = json.loads(self.line.recv(100))

    def poll(self):
        if self.returncode is None and select.select([self.line], [], [], 0)[0]:
            self.returncode = json.loads(self.line.recv(100))
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None and not select.select([self.line], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.poll()

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run(command, cwd, env, stdin, timeout):
    """As `subprocess.run`: the program has ended, and these are its words and errors."""
    with contextlib.ExitStack() as files:
        said, errors, given = (files.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(stdin.encode())
        given.seek(0)
        fork = Fork(command, cwd, env, said, errors=errors, stdin=given)
        try:
            fork.wait(timeout)
        finally:
            fork.kill()
        words = [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()
                 for file in (said, errors)]
        return subprocess.CompletedProcess(command, fork.returncode, *words)


@functools.lru_cache(maxsize=None)
def nursery(threads):
    """The line to the process that forks, which ends with this one. How many threads PyTorch has is
    decided when it is imported."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    env.update({"OMP_NUM_THREADS": threads} if threads else {})
    with theirs:
        process = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   env=env, pass_fds=[theirs.fileno()])

    def end():
        mine.close()
        process.wait()

    atexit.register(end)
    return mine


# --------------------------------------------------------------------------------------------------
# The process that forks
# --------------------------------------------------------------------------------------------------

def next_program(asking):
    """Fork whenever that is asked for, and tell how forks ended. Returns what to run, and where to
    write, in the fork; ends when nobody can ask any more."""
    for name in IMPORTED:
        with contextlib.suppress(ImportError):  # of an optional extra, or of its older versions
            __import__(name)
    ended, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.set_wakeup_fd(waking)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    lines = {}  # by process
    while True:
        ready, _, _ = select.select([asking, ended], [], [])
        if ended in ready:
            os.read(ended, 1000)
            tell_ends(lines)
        if asking in ready:
            described, files, _, _ = socket.recv_fds(asking, LONGEST, 4)
            if not described:
                sys.exit()
            line, *streams = files
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return json.loads(described), streams
            for stream in streams:
                os.close(stream)
            lines[pid] = socket.socket(fileno=line)
            lines[pid].send(json.dumps(pid).encode())


def tell_ends(lines):
    with contextlib.suppress(ChildProcessError):  # none is left
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with lines.pop(pid) as line, contextlib.suppress(BrokenPipeError):
                line.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())


def become(program, streams):
    """Be in the place of a program that was just started. Returns its file."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = open(0, encoding="utf-8")  # those of before were none of pipes
    sys.stdout = open(1, "w", encoding="utf-8")
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    os.chdir(program["cwd"])
    os.environ.clear()
    os.environ.update(program["env"])
    os.nice(program["nice"])
    sys.argv = program["command"]
    sys.path[0] = os.path.dirname(sys.argv[0])
    return sys.argv[0]


if __name__ == "__main__":
    runpy.run_path(become(*next_program(socket.socket(fileno=int(sys.argv[1])))),
                   run_name="__main__")
