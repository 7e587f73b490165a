"""strace.py - system calls of a running peer that fail, return less, or take long: strace attaches and tampers.

    with Injected(peer, "pread64:error=EIO", path=origin.full("f")) as fault:
        ...                                 # every pread64 of that file by the peer fails now
    assert fault.count("pread64") > 0       # and it did: from what strace wrote down

`what` is strace's -e inject= (SYSCALLS:error=ERRNO, :retval=N, :delay_enter=MICROSECONDS, :when=FIRST..LAST). `path`
restricts it to calls on a file or directory, by path or by descriptor. The peer runs on, slower, and is itself again at
the end of the block.
"""

import os
import re
import select
import signal
import subprocess
import tempfile
import time

import cluster as lib

ATTACH_TIMEOUT_S = 20


def available():
    """None, or why not."""
    try:
        r = subprocess.run(["strace", "-e", "inject=getppid:error=EIO", "-o", "/dev/null", "true"], capture_output=True,
                           check=False)
    except FileNotFoundError:
        return "strace is not installed"
    return None if r.returncode == 0 else r.stderr.decode("utf-8", "replace").strip()


class Injected:
    def __init__(self, peer, what, path=None):
        self.peer, self.what, self.path = peer, what, path
        self.calls = what.split(":")[0]

    def __enter__(self):
        fd, self.log_path = tempfile.mkstemp(prefix="forebay-strace.")
        os.close(fd)
        command = ["strace", "-f", "-q", "-o", self.log_path, "-e", "trace=" + self.calls, "-e", "signal=none",
                   "-e", "inject=" + self.what]
        if self.path:
            command += ["-P", self.path]
        self.proc = subprocess.Popen([*command, "-p", str(self.peer.pid)], stdin=subprocess.DEVNULL,
                                     stderr=subprocess.PIPE, preexec_fn=lib._die_with_parent)
        self._wait_attached()
        return self

    def _wait_attached(self):
        """Until every thread of the peer has the tracer."""
        limit = time.monotonic() + ATTACH_TIMEOUT_S * lib.SLOWNESS
        while True:
            tasks = "/proc/%d/task" % self.peer.pid
            tracers = set()
            for task in os.listdir(tasks):
                try:
                    with open("%s/%s/status" % (tasks, task), encoding="ascii") as f:
                        tracers.add(re.search(r"TracerPid:\t(\d+)", f.read()).group(1))
                except (FileNotFoundError, ProcessLookupError):
                    pass
            if tracers == {str(self.proc.pid)}:
                return
            if self.proc.poll() is not None or time.monotonic() > limit:
                self.proc.kill()
                raise lib.ClusterError("strace did not attach: %s" % self.proc.stderr.read().decode("utf-8", "replace"))
            select.select([self.proc.stderr], [], [], 0.02)

    def __exit__(self, *_):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGINT)  # detaches
        try:
            self.proc.communicate(timeout=ATTACH_TIMEOUT_S * lib.SLOWNESS)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.communicate()
            raise lib.ClusterError("strace did not detach") from None
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            self.lines = f.read().splitlines()
        os.unlink(self.log_path)

    def count(self, call=None):
        """Calls that were tampered with, by now (or, after the block, in all)."""
        if self.proc.poll() is None:
            with open(self.log_path, encoding="utf-8", errors="replace") as f:
                lines = f.read().splitlines()
        else:
            lines = self.lines
        return sum(("INJECTED" in line or "DELAYED" in line) and (call is None or call + "(" in line or "%s resumed" % call in line)
                   for line in lines)
