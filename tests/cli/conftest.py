"""The command with a fake library (fake_forebay.c): `fake` runs it, in a world of its own.

    r = fake("get", "ds/a.txt", FAKE_FAIL="fb_pread_version:5")     # environment by keyword
    r.returncode, r.stdout (bytes), r.err (text), r.json (the one object on stdout)
    fake.root                                                       # namespaces are directories below it
    fake.calls()                                                    # what the library was asked, a line per call
"""

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios

import cluster as lib
import pytest

BINARY = os.path.join(lib.BUILD, "forebay-cli-fake")


class Result:
    def __init__(self, argv, p):
        self.argv, self.returncode, self.stdout = argv, p.returncode, p.stdout
        self.out, self.err = p.stdout.decode("utf-8", "replace"), p.stderr.decode("utf-8", "replace")

    @property
    def json(self):
        value = json.loads(self.out)
        assert isinstance(value, dict) and self.out.count("\n") == 1, "one object on one line: %r" % self.out
        return value

    def __repr__(self):
        return "%s -> %d\n%s\n%s" % (self.argv, self.returncode, self.out, self.err)


class Fake:
    def __init__(self, path):
        self.root = path / "root"
        self.cwd = path / "cwd"
        self.log = path / "calls"
        self.root.mkdir()
        self.cwd.mkdir()

    def env(self, over):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("FOREBAY_", "FAKE_"))}
        env.update(FAKE_ROOT=str(self.root), FAKE_LOG=str(self.log), TZ="UTC", LC_ALL="C.UTF-8")
        env.update({k: str(v) for k, v in over.items()})
        return env

    def __call__(self, *argv, input=b"", timeout=60 * lib.SLOWNESS, **env):
        argv = [os.fspath(a) for a in argv]
        p = subprocess.run([BINARY, *argv], input=input, capture_output=True, check=False, timeout=timeout, cwd=self.cwd,
                           env=self.env(env))
        assert not lib.REPORT.search(p.stderr), p.stderr.decode("utf-8", "replace")
        return Result(argv, p)

    def popen(self, *argv, env=None, **kwargs):
        return subprocess.Popen([BINARY, *map(os.fspath, argv)], cwd=self.cwd, env=self.env(env or {}), **kwargs)

    def ok(self, *argv, **env):
        r = self(*argv, **env)
        assert r.returncode == 0, r
        return r

    def fails(self, status, *argv, **env):
        """Exits with `status` and tells why, once, in the form that --help promises."""
        r = self(*argv, **env)
        assert r.returncode == status, r
        told = [line for line in r.err.splitlines() if line.startswith("forebay: ")]
        assert len(told) == 1, r
        r.text, _, r.name = told[0][len("forebay: "):].rpartition(" (")
        r.name = r.name.rstrip(")")
        assert r.text and r.name.isupper(), r
        return r

    def calls(self):
        return self.log.read_text().splitlines() if self.log.exists() else []

    def namespace(self, name="ds", files=None):
        directory = self.root / name
        directory.mkdir(exist_ok=True)
        for key, data in (files or {}).items():
            path = directory / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return directory


@pytest.fixture
def fake(tmp_path):
    return Fake(tmp_path)


COMMANDS = ["status", "ring", "ns create", "ns list", "ns show", "ns drop", "ls", "stat", "get", "put", "invalidate",
            "prestage", "verify", "doctor", "completion", "help"]


@pytest.fixture
def terminal(fake):
    """terminal(ARGS..., columns=80, type_after={seen: keys}) runs the command on a pseudo-terminal; -> status, bytes."""

    def run(*argv, columns=80, type_after=None, stdout=None, **env):
        control, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        env.setdefault("TERM", "xterm")
        p = fake.popen(*argv, env=env, stdin=side, stdout=stdout or side, stderr=side, start_new_session=True)
        os.close(side)
        seen = b""
        try:
            while True:
                try:
                    got = os.read(control, 65536)
                except OSError:  # EIO: the other side is closed
                    break
                if not got:
                    break
                seen += got
                for text, keys in (type_after or {}).items():
                    if keys and text in seen:
                        os.write(control, keys)
                        type_after[text] = None
            return p.wait(30), seen
        finally:
            os.close(control)
            if p.poll() is None:
                p.kill()
                p.wait()

    return run
