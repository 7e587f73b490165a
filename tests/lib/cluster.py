"""cluster.py - real forebayd peers for tests: started on free ports of the loopback, watched, and called to account.

    def test_something(make_cluster, origin):              # fixtures of tests/conftest.py
        origin.write("a/b.bin", size=3 << 20)              # bytes from a seed
        c = make_cluster(3, roots=[origin.path])           # three peers, ready
        c.cli("ns", "create", "demo", "--origin", origin.path)
        assert c.cli_bytes("get", "demo/a/b.bin") == origin.read("a/b.bin")
        assert c.counter("origin_read_bytes") == 3 << 20   # summed over the peers
        c.peers[1].kill()                                  # SIGKILL; .term() .freeze() .thaw() .start() .restart()
        r = c.cli("stat", "demo/missing", check=False)     # r.returncode, r.stdout, r.stderr, r.json
        assert r.returncode == 3 and "missing" in r.stderr

Configuration: make_cluster(n, SECTION={"key": value}, ...) is merged over the default of each peer; `per_peer` maps a
peer's number to what only that peer gets; `members` replaces the member list (to give two peers different rings);
`command` are words before the daemon's own (setpriv ...); ready=False returns without waiting. Every waiting goes
through wait_until(), which polls a condition against a deadline; nothing sleeps for a guess.

At the end of a test each peer that still runs gets SIGTERM and must exit 0 in time; a peer that died by itself, exited
with another status, or left a sanitizer's report in its log fails the test, and the logs' tails are printed. A test that
expects such an end says so: peer.expect_exit(status). Peers are killed by the kernel when the test process dies.

FOREBAY_BUILD is the build folder (default `build`); timeouts are longer for build-asan and build-tsan.
"""

import ctypes
import hashlib
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

REPO = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BUILD = os.path.join(REPO, os.environ.get("FOREBAY_BUILD", "build"))
SANITIZED = any(word in os.path.basename(BUILD) for word in ("asan", "tsan", "fuzz"))
SLOWNESS = 6 if "tsan" in BUILD else 4 if SANITIZED else 1

START_TIMEOUT_S = 20 * SLOWNESS
STOP_TIMEOUT_S = 20 * SLOWNESS
CLI_TIMEOUT_S = 60 * SLOWNESS
LOG_TAIL_BYTES = 16000

REPORT = re.compile(rb"ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|AddressSanitizer:DEADLYSIGNAL|"
                    rb"ThreadSanitizer:DEADLYSIGNAL|runtime error: |FATAL: ThreadSanitizer|Assertion .* failed")


class ClusterError(AssertionError):
    """A peer or the CLI did what no test allows; the text says who, and what its log says."""


def wait_until(condition, timeout_s=10, what=None, every_s=0.02):
    """Polls condition() until it is true and returns its value; fails after timeout_s (scaled for sanitizers)."""
    limit = time.monotonic() + timeout_s * SLOWNESS
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > limit:
            raise ClusterError("not within %g s: %s" % (timeout_s * SLOWNESS, what or condition))
        time.sleep(every_s)


def sha256(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        for piece in iter(lambda: f.read(1 << 20), b""):
            h.update(piece)
    return h.hexdigest()


# ---- ports ------------------------------------------------------------------------------------------------------


def _ephemeral_floor():
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as f:
            return int(f.read().split()[0])
    except (OSError, ValueError):
        return 32768


def free_ports(n, host="127.0.0.1"):
    """n ports that nobody listens on. Below the ephemeral range, so that no outgoing connection can take one while a
    peer is down for a restart."""
    floor = max(_ephemeral_floor(), 12000)
    held, rng = [], random.SystemRandom()
    try:
        for _ in range(1000):
            if len(held) == n:
                return [s.getsockname()[1] for s in held]
            s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                s.bind((host, rng.randrange(10000, floor)))
            except OSError:
                s.close()
                continue
            held.append(s)
        raise ClusterError("no %d free ports on %s" % (n, host))
    finally:
        for s in held:
            s.close()


# ---- configuration ----------------------------------------------------------------------------------------------


def to_yaml(value, indent=0):
    """Block-style YAML of dicts, lists and scalars; strings are quoted as in JSON."""
    pad = "  " * indent
    if isinstance(value, dict):
        lines = []
        for key, v in value.items():
            if isinstance(v, dict) and v:
                lines.append("%s%s:\n%s" % (pad, key, to_yaml(v, indent + 1)))
            elif isinstance(v, list) and v and isinstance(v[0], dict):
                items = "".join("%s  - {%s}\n" % (pad, ", ".join("%s: %s" % (k, json.dumps(x)) for k, x in item.items()))
                                for item in v)
                lines.append("%s%s:\n%s" % (pad, key, items))
            else:
                lines.append("%s%s: %s\n" % (pad, key, json.dumps(v)))
        return "".join(lines)
    return pad + json.dumps(value) + "\n"


def merge(base, over):
    """Deep merge of dicts; a value of None removes the key."""
    out = dict(base)
    for key, value in over.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merge(out[key], value)
        else:
            out[key] = value
    return out


# ---- processes --------------------------------------------------------------------------------------------------

_LIBC = ctypes.CDLL(None, use_errno=True)
_PARENT = os.getpid()


def _die_with_parent():
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != _PARENT:
        os._exit(127)


# A command that takes root's right to read and write everything from the program it starts, as for another user.
WITHOUT_DAC = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")


class Peer:
    """One forebayd."""

    def __init__(self, cluster, index, name, port, conf):
        self.cluster, self.index, self.name, self.port = cluster, index, name, port
        self.address = "127.0.0.1:%d" % port
        self.conf = conf
        self.conf_path = os.path.join(cluster.dir, name + ".yaml")
        self.log_path = os.path.join(cluster.dir, name + ".log")
        self.proc = None
        self.expected = {0}
        self._ready_fd = None

    def write_conf(self):
        with open(self.conf_path, "w", encoding="utf-8") as f:
            f.write(to_yaml(self.conf))

    def start(self, wait=True, extra=()):
        """Starts the daemon on its configuration file (written anew)."""
        assert not self.running, "%s runs already" % self.name
        os.makedirs(self.conf["peer"]["state_dir"], exist_ok=True)
        self.write_conf()
        self.expected = {0}
        ready, told = os.pipe()
        try:
            with open(self.log_path, "ab") as log:
                self.proc = subprocess.Popen([*self.cluster.command, os.path.join(BUILD, "forebayd"), "--config",
                                              self.conf_path, "--ready-fd", str(told), *extra], stdin=subprocess.DEVNULL,
                                             stdout=log, stderr=log, pass_fds=(told,), preexec_fn=_die_with_parent)
        finally:
            os.close(told)
        if self._ready_fd is not None:
            os.close(self._ready_fd)
        self._ready_fd = ready
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout_s=START_TIMEOUT_S):
        """Until the daemon says on --ready-fd that it serves calls. Its end or silence is a ClusterError with its log."""
        if self._ready_fd is None:
            return
        readable, _, _ = select.select([self._ready_fd], [], [], timeout_s)
        word = os.read(self._ready_fd, 64) if readable else b""
        os.close(self._ready_fd)
        self._ready_fd = None
        if not readable:
            raise ClusterError("%s does not serve on %s after %d s\n%s" %
                               (self.name, self.address, timeout_s, self.tail()))
        if not word.startswith(b"ready "):
            raise ClusterError("%s ended at its start with %d\n%s" %
                               (self.name, self.proc.wait(STOP_TIMEOUT_S), self.tail()))

    @property
    def running(self):
        return self.proc is not None and self.proc.poll() is None

    @property
    def pid(self):
        return self.proc.pid

    def expect_exit(self, *statuses):
        """The exit statuses (negative: signals) that are right for this peer from now on."""
        self.expected = set(statuses)

    def signal(self, number):
        os.kill(self.proc.pid, number)

    def kill(self):
        """kill -9, as a node that loses its power."""
        if self.running:
            self.expect_exit(-signal.SIGKILL)
            self.signal(signal.SIGKILL)
        self.proc.wait(STOP_TIMEOUT_S)

    def term(self, timeout_s=STOP_TIMEOUT_S):
        """SIGTERM, waits for the end and returns the exit status. Fails unless it is an expected one (0)."""
        if self.running:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s=STOP_TIMEOUT_S):
        try:
            status = self.proc.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            raise ClusterError("%s did not end within %d s of SIGTERM\n%s" % (self.name, timeout_s, self.tail())) from None
        if status not in self.expected:
            raise ClusterError("%s exited with %d, expected %s\n%s" %
                               (self.name, status, sorted(self.expected), self.tail()))
        return status

    def freeze(self):
        """SIGSTOP: alive, connected, and silent."""
        self.signal(signal.SIGSTOP)

    def thaw(self):
        self.signal(signal.SIGCONT)

    def restart(self, **kwargs):
        self.term()
        return self.start(**kwargs)

    def log(self):
        try:
            with open(self.log_path, "rb") as f:
                return f.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def tail(self):
        return "---- %s:\n%s" % (self.log_path, self.log()[-LOG_TAIL_BYTES:])

    def rss_bytes(self):
        with open("/proc/%d/statm" % self.pid, encoding="ascii") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def open_fds(self):
        return len(os.listdir("/proc/%d/fd" % self.pid))


class Result:
    """What a CLI run left behind."""

    def __init__(self, args, returncode, stdout, stderr, seconds):
        self.args, self.returncode, self.seconds = args, returncode, seconds
        self.raw, self.stdout, self.stderr = stdout, stdout.decode("utf-8", "replace"), stderr.decode("utf-8", "replace")

    @property
    def json(self):
        """The one JSON document on stdout, or the list of them when there is one a line."""
        try:
            return json.loads(self.stdout)
        except ValueError:
            return [json.loads(line) for line in self.stdout.splitlines() if line.strip()]

    def __repr__(self):
        return "%s -> %d\n%s%s" % (" ".join(map(str, self.args)), self.returncode, self.stdout[-4000:], self.stderr[-4000:])


class Cluster:
    """n peers with one member list."""

    def __init__(self, n=3, roots=(), per_peer=None, members=None, ready=True, weights=None, domains=None,
                 command=(), **conf):
        self.command = command  # what the daemons are started by, in words before their own
        self.dir = tempfile.mkdtemp(prefix="forebay-cluster.")
        self.peers, self.reports = [], []
        self._running_cli = []
        try:
            for attempt in range(5):
                self._make(n, [str(r) for r in roots], per_peer or {}, members, weights, domains, conf)
                if self._start_all(ready):
                    break
                if attempt == 4:
                    raise ClusterError("ports were taken five times in a row\n" + self.logs())
        except BaseException:
            self._kill_all()
            shutil.rmtree(self.dir, ignore_errors=True)
            raise

    def _make(self, n, roots, per_peer, members, weights, domains, conf):
        names = ["p%d" % i if n > 26 else chr(ord("a") + i) for i in range(n)]
        ports = free_ports(n)
        own = [{"name": name, "address": "127.0.0.1:%d" % port, "weight": weights[i] if weights else 100,
                "domain": domains[i] if domains else "rack%d" % i} for i, (name, port) in enumerate(zip(names, ports))]
        self.members = own
        self.peers = []
        for i, (name, port) in enumerate(zip(names, ports)):
            default = {
                "peer": {"name": name, "listen": "127.0.0.1:%d" % port, "state_dir": os.path.join(self.dir, name)},
                "cluster": {"members": members(own, i) if callable(members) else members or own},
                "ram": {"max_bytes": "256MiB"},
                "origin": {"roots": roots},
                "log": {"level": "debug"},
            }
            self.peers.append(Peer(self, i, name, port, merge(merge(default, conf), per_peer.get(i, {}))))

    def _start_all(self, ready):
        """False when a port was taken between our look and the peer's bind."""
        for peer in self.peers:
            peer.start(wait=False)
        if not ready:
            return True
        for peer in self.peers:
            try:
                peer.wait_ready()
            except ClusterError:
                if "EADDRINUSE" in peer.log() or "ddress already in use" in peer.log():
                    self._kill_all()
                    for p in self.peers:
                        os.unlink(p.log_path)
                    return False
                raise
        return True

    @property
    def addresses(self):
        return ",".join(p.address for p in self.peers)

    @property
    def alive(self):
        return [p for p in self.peers if p.running]

    # ---- the CLI ----

    def popen(self, *args, peers=None, env=None, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE):
        """Starts the CLI without waiting (for kills and signals in the middle)."""
        e = {k: v for k, v in os.environ.items() if not k.startswith("FOREBAY_")}
        e["FOREBAY_PEERS"] = self.addresses if peers is None else peers
        e.update(env or {})
        e = {k: v for k, v in e.items() if v is not None}  # None: without that variable
        p = subprocess.Popen([os.path.join(BUILD, "forebay"), *map(str, args)], stdin=stdin, stdout=stdout, stderr=stderr,
                             env=e, preexec_fn=_die_with_parent)
        self._running_cli.append(p)
        return p

    def cli(self, *args, check=True, input=None, peers=None, env=None, timeout_s=CLI_TIMEOUT_S):
        """Runs `forebay ARGS` against all peers (or `peers`, a list as for --peers). check: exit status 0 or fail."""
        start = time.monotonic()
        p = self.popen(*args, peers=peers, env=env, stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL)
        try:
            out, err = p.communicate(input, timeout_s)
        except subprocess.TimeoutExpired:
            p.kill()
            out, err = p.communicate()
            raise ClusterError("forebay %s did not end within %d s\n%s\n%s" % (args, timeout_s, err, self.logs())) from None
        r = Result(args, p.returncode, out, err, time.monotonic() - start)
        if REPORT.search(err) or p.returncode < 0:
            raise ClusterError("the CLI crashed: %r" % r)
        if check and p.returncode != 0:
            raise ClusterError("the CLI failed: %r" % r)
        return r

    def cli_json(self, *args, **kwargs):
        return self.cli(*args, "--json", **kwargs).json

    def cli_bytes(self, *args, **kwargs):
        return self.cli(*args, **kwargs).raw

    # ---- state ----

    def status(self, peers=None):
        """`forebay status --json`."""
        return self.cli_json("status", peers=peers if peers is not None else ",".join(p.address for p in self.alive))

    def counters(self):
        """{peer name: {counter: value}} of the peers that answer."""
        return {p["name"]: p["counters"] for p in self.status()["peers"] if p["reachable"]}

    def counter(self, name):
        """A counter summed over the peers that answer (server/service/metrics.def names them)."""
        return sum(c[name] for c in self.counters().values())

    def logs(self):
        return "\n".join(p.tail() for p in self.peers)

    # ---- the end ----

    def _kill_all(self):
        for p in self._running_cli:
            if p.poll() is None:
                p.kill()
                p.wait()
        for peer in self.peers:
            if peer.running:
                peer.proc.kill()
                peer.proc.wait()

    def close(self):
        """Stops all peers and judges them; raises ClusterError with everything that was wrong."""
        wrong = []
        try:
            for p in self._running_cli:
                if p.poll() is None:
                    wrong.append("a CLI process was left running: %s" % p.args)
            for peer in self.peers:
                if peer.proc is not None and not peer.running and peer.proc.returncode not in peer.expected:
                    wrong.append("%s ended by itself with %d\n%s" % (peer.name, peer.proc.returncode, peer.tail()))
                elif peer.running:
                    peer.signal(signal.SIGCONT)
                    peer.signal(signal.SIGTERM)  # all at once: they drain side by side
            for peer in self.peers:
                if peer.running:
                    try:
                        peer.wait()
                    except ClusterError as e:
                        wrong.append(str(e))
                elif peer.proc is not None and peer.proc.returncode not in peer.expected and not any(
                        w.startswith(peer.name + " ") for w in wrong):
                    wrong.append("%s exited with %d\n%s" % (peer.name, peer.proc.returncode, peer.tail()))
                if REPORT.search(peer.log().encode()):
                    wrong.append("%s: a sanitizer or an assertion spoke\n%s" % (peer.name, peer.log()[-60000:]))
        finally:
            self._kill_all()
            shutil.rmtree(self.dir, ignore_errors=True)
        if wrong:
            raise ClusterError("\n".join(wrong))


# ---- origins ----------------------------------------------------------------------------------------------------


class Origin:
    """A directory to serve from. Contents come from the test's seed, so a failure can be repeated."""

    def __init__(self, path, seed=1):
        self.path = os.path.realpath(str(path))
        os.makedirs(self.path, exist_ok=True)
        self.rng = random.Random(seed)

    def full(self, key):
        return os.path.join(self.path, key)

    def write(self, key, data=None, size=None):
        """Creates or replaces a file (in place, so with the same inode); returns its bytes."""
        if data is None:
            data = self.rng.randbytes(size)
        os.makedirs(os.path.dirname(self.full(key)), exist_ok=True)
        with open(self.full(key), "wb") as f:
            f.write(data)
        return data

    def replace(self, key, data=None, size=None):
        """The same by rename, as careful writers do: another inode."""
        if data is None:
            data = self.rng.randbytes(size)
        with open(self.full(key) + ".new", "wb") as f:
            f.write(data)
        os.rename(self.full(key) + ".new", self.full(key))
        return data

    def read(self, key):
        with open(self.full(key), "rb") as f:
            return f.read()

    def sha256(self, key):
        return sha256(self.full(key))

    def keys(self):
        return sorted(os.path.relpath(os.path.join(folder, name), self.path)
                      for folder, _, names in os.walk(self.path) for name in names)


class Tmpfs:
    """A small file system of its own: to fill it, or to take it away."""

    def __init__(self, size_bytes):
        self.path = tempfile.mkdtemp(prefix="forebay-tmpfs.")
        r = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%d,mode=0755" % size_bytes, "tmpfs", self.path],
                           capture_output=True, check=False)
        if r.returncode != 0:
            os.rmdir(self.path)
            raise PermissionError(r.stderr.decode("utf-8", "replace").strip())

    def close(self):
        r = subprocess.run(["umount", self.path], capture_output=True, check=False)
        if r.returncode != 0:
            subprocess.run(["umount", "-l", self.path], check=False)
        os.rmdir(self.path)


if __name__ == "__main__":
    sys.exit("cluster.py is for tests to import; see its opening paragraph")
