"""peers.py - three forebayd on the loopback, each with a configuration file of its own: started, watched, ended."""

import ctypes
import json
import os
import random
import select
import signal
import socket
import subprocess
import time

PREFERRED = (7401, 7402, 7403)
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 20
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

CONFIG = """\
# Written by deploy/quickstart.sh. `forebayd --help` names every key, `forebayd --dump-config` prints all of them.
peer:
  name: {name}
  listen: "{address}"
  state_dir: {state_dir}
cluster:
  members:
{members}
ram:
  max_bytes: {ram_mib}MiB
origin:
  roots: [{root}]
log:
  level: info
"""

_LIBC = ctypes.CDLL(None)


class PeerError(Exception):
    pass


def free(port):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_ports():
    """7401..7403 when they are free (a kept cluster may hold them), otherwise others below the ephemeral range, where
    no outgoing connection can take them."""
    if all(free(p) for p in PREFERRED):
        return list(PREFERRED)
    ports = []
    for _ in range(1000):
        p = random.randrange(10000, 32000)
        if p not in ports and free(p):
            ports.append(p)
            if len(ports) == len(PREFERRED):
                return ports
    raise PeerError("no three free ports between 10000 and 32000 on 127.0.0.1")


class Peers:
    def __init__(self, build, folder, root, ram_bytes, keep):
        self.build, self.dir, self.keep = build, folder, keep
        self.root, self.ram_bytes = root, ram_bytes
        self.procs = {}
        self.addresses = {}

    def start(self):
        for attempt in range(3):
            try:
                self._start_once()
                return
            except PeerError as e:
                self.stop()
                if attempt == 2 or "in use" not in str(e):
                    raise

    def _start_once(self):
        names = ["a", "b", "c"]
        self.addresses = {n: "127.0.0.1:%d" % p for n, p in zip(names, choose_ports())}
        members = "\n".join('    - {name: %s, address: "%s", weight: 100, domain: rack%d}' % (n, a, i)
                            for i, (n, a) in enumerate(self.addresses.items()))
        for name, address in self.addresses.items():
            os.makedirs(os.path.join(self.dir, name), exist_ok=True)
            with open(os.path.join(self.dir, name + ".yaml"), "w", encoding="utf-8") as f:
                f.write(CONFIG.format(name=name, address=address, members=members, ram_mib=self.ram_bytes >> 20,
                                      state_dir=json.dumps(os.path.join(self.dir, name)), root=json.dumps(self.root)))
        waiting = {name: self._spawn(name) for name in self.addresses}
        for name, ready in waiting.items():
            self._wait_ready(name, ready)

    def _spawn(self, name):
        """Starts one peer and keeps the descriptor on which it will say that it serves."""
        conf = os.path.join(self.dir, name + ".yaml")
        ready, told = os.pipe()
        # No signal between the start of a process and our knowing of it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            with open(self.log_path(name), "ab") as log:
                # A session of its own: Ctrl-C is for us alone, and a kept cluster outlives the terminal.
                self.procs[name] = subprocess.Popen([os.path.join(self.build, "forebayd"), "--config", conf, "--ready-fd",
                                                     str(told)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                    pass_fds=(told,), start_new_session=True, preexec_fn=self._in_child)
        finally:
            os.close(told)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return ready

    def _wait_ready(self, name, ready):
        readable, _, _ = select.select([ready], [], [], START_TIMEOUT_S)
        word = os.read(ready, 64) if readable else b""
        os.close(ready)
        if not word.startswith(b"ready "):
            how = "ended at its start" if readable else "does not serve after %d s" % START_TIMEOUT_S
            raise PeerError("peer %s %s:\n%s" % (name, how, self.tail(name)))

    def _in_child(self):
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if not self.keep:
            _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: even if we are killed with -9

    def cli(self, *args, check=True, timeout_s=600):
        """Runs the CLI against all peers."""
        r = subprocess.run([os.path.join(self.build, "forebay"), "--peers", ",".join(self.addresses.values()), *args],
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout_s)
        if check and r.returncode != 0:
            raise PeerError("forebay %s: exit status %d\n%s%s" % (" ".join(args), r.returncode, r.stdout, r.stderr))
        return r

    def log_path(self, name):
        return os.path.join(self.dir, name + ".log")

    def tail(self, name):
        try:
            with open(self.log_path(name), encoding="utf-8", errors="replace") as f:
                return f.read()[-4000:]
        except OSError:
            return ""

    def kill(self, name):
        self.procs[name].kill()
        self.procs[name].wait()

    def restart(self, name):
        """Starts a peer that was killed on its old configuration, and waits until it is back."""
        self._wait_ready(name, self._spawn(name))

    def unexpected_ends(self, killed=()):
        return [n for n, p in self.procs.items() if n not in killed and p.poll() is not None]

    def stop(self, killed=()):
        """SIGTERM to all, then SIGKILL for those that do not end. Returns those that did not end as they should: with 0,
        or as we killed them."""
        for p in self.procs.values():
            if p.poll() is None:
                p.terminate()
        limit, wrong = time.monotonic() + STOP_TIMEOUT_S, []
        for name, p in self.procs.items():
            try:
                status = p.wait(max(0.1, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                p.kill()
                status = p.wait()
            if status != (-signal.SIGKILL if name in killed else 0):
                wrong.append(name)
        self.procs = {}
        return wrong
