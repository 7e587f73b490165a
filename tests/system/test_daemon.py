"""test_daemon.py - forebayd as its operator meets it: settings, signals, limits, strangers on its port.

curl stands for every gRPC implementation that is not ours: its HTTP/2 is nghttp2's.
"""

import contextlib
import os
import resource
import signal
import socket
import struct
import subprocess
import sys

import cluster as lib
import pytest

FOREBAYD = os.path.join(lib.BUILD, "forebayd")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # and an empty SETTINGS frame
OVER_CAP = (4 << 20) + (64 << 10) + 1


def forebayd(*args, preexec_fn=None):
    """One run that ends by itself."""
    return subprocess.run([FOREBAYD, *map(str, args)], capture_output=True, encoding="utf-8", check=False,
                          timeout=60 * lib.SLOWNESS, preexec_fn=preexec_fn)


def conf_file(tmp_path, text):
    path = tmp_path / "forebayd.yaml"
    path.write_text(text)
    return path


class Reply:
    def __init__(self, status, code, message, body):
        self.status, self.code, self.message, self.body = status, code, message, body


def start_grpc(port, method, message, tmp_path):
    """One unary call with curl: the process."""
    request = tmp_path / "request"
    request.write_bytes(b"\0" + struct.pack(">I", len(message)) + message)
    (tmp_path / "body").write_bytes(b"")
    return subprocess.Popen(["curl", "-sS", "--max-time", str(60 * lib.SLOWNESS), "--noproxy", "*",
                             "--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers",
                             "--data-binary", "@%s" % request, "-D", tmp_path / "headers", "-o", tmp_path / "body",
                             "http://127.0.0.1:%d/%s" % (port, method)], stderr=subprocess.PIPE, encoding="utf-8")


def grpc(port, method, message, tmp_path, early=False):
    """The same, waited for. With `early` the answer may be None."""
    curl = start_grpc(port, method, message, tmp_path)
    _, err = curl.communicate()
    if early and curl.returncode == 92:
        return None  # the answer came before the request had gone: RFC 9113 (8.1) allows it, curl loses the answer
    assert curl.returncode == 0, err
    found = dict(line.split(": ", 1) for line in (tmp_path / "headers").read_text().splitlines() if ": " in line)
    return Reply(int(found["grpc-status"]), int(found.get("forebay-code", 0)), found.get("grpc-message", ""),
                 (tmp_path / "body").read_bytes()[5:])


def health(port, service, tmp_path):
    name = service.encode()
    return grpc(port, "grpc.health.v1.Health/Check", b"\x0a" + bytes([len(name)]) + name if name else b"", tmp_path)


def counter(cluster, name):
    return cluster.counters()["a"][name]


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, where, accepted", [
    ("peer:\n  nam: x\n", ":2: peer.nam", "listen"),
    ("peers: {}\n", ":1: peers", "peer"),
    ("ram:\n  max_bytes: lots\n", ":2: ram.max_bytes", "16MiB"),
    ("ram:\n\n  max_bytes: 1MiB\n", ":3: ram.max_bytes", "16MiB"),
    ("origin:\n  threads: 257\n", ":2: origin.threads", "1..256"),
    ("origin:\n  roots: /data\n", ":2: origin.roots", "list"),
    ("log:\n  level: loud\n", ":2: log.level", "debug"),
    ("cluster:\n  members:\n    - {name: a}\n", ":3: cluster.members[0]", "address"),
    ("cluster:\n  members:\n    - {name: a, address: 'h:1', weight: 0}\n", ":3: cluster.members[0].weight", "1..65535"),
    ("peer: {name: a}\ncluster:\n  members:\n    - {name: b, address: 'h:7401'}\n", "peer.name", "cluster.members"),
    ("peer: {name: a}\nput: {max_value_bytes: 1GiB}\n", "put.max_inflight_bytes", "at least"),
    ("peer: [\n", ":", ""),
])
def test_bad_settings_stop_the_start(tmp_path, text, where, accepted):
    path = conf_file(tmp_path, text)
    state = tmp_path / "state"
    for args in (["--config", path, "--set", "peer.state_dir=%s" % state], ["--check-config", path]):
        r = forebayd(*args)
        assert r.returncode == 78, r
        assert str(path) + where in r.stderr or (where[0] != ":" and where in r.stderr and str(path) in r.stderr), r.stderr
        assert accepted in r.stderr
        assert len(r.stderr.splitlines()) == 1
    assert not state.exists()


def test_files_that_cannot_be_read(tmp_path):
    missing = tmp_path / "missing.yaml"
    r = forebayd("--config", missing)
    assert r.returncode == 78 and str(missing) in r.stderr
    r = forebayd("--check-config", tmp_path)
    assert r.returncode == 78 and str(tmp_path) in r.stderr


def test_check_and_dump(tmp_path):
    path = conf_file(tmp_path, "peer: {name: a}\norigin: {roots: [/x, /y]}\nram: {max_bytes: 48MiB}\n"
                     "cluster:\n  members:\n    - {name: a, address: 'h:7401', weight: 7, domain: r1}\n")
    for args in (["--check-config", path], ["--check-config=%s" % path], ["--config", path, "--check-config"]):
        r = forebayd(*args)
        assert r.returncode == 0 and str(path) in r.stdout, r
    dump = forebayd("--dump-config", "--config", path, "--set", "origin.threads=3")
    assert dump.returncode == 0 and "48MiB" in dump.stdout and "threads: 3" in dump.stdout and "weight: 7" in dump.stdout
    again = tmp_path / "again.yaml"
    again.write_text(dump.stdout)
    assert forebayd("--dump-config", "--config", again).stdout == dump.stdout
    assert forebayd("--check-config", "--set", "origin.threads=0").returncode == 78
    assert forebayd("--check-config", "--set", "peer.name=a").returncode == 0


def test_help_tells_every_setting():
    text = forebayd("--help").stdout
    for key in ("peer.name", "cluster.members[].weight", "ram.max_bytes", "rpc.default_deadline_ms", "log.format",
                "--ready-fd", "SIGHUP"):
        assert key in text
    assert forebayd("--help-config").stdout in text
    assert forebayd("--version").stdout.startswith("forebayd ")


@pytest.mark.parametrize("args", [["--nonsense"], ["stray"], ["--config"], ["--ready-fd", "x"], ["--set"]])
def test_bad_usage(args):
    r = forebayd(*args)
    assert r.returncode == 2 and r.stderr and not r.stdout


def test_manual_and_example_are_in_step():
    script = os.path.join(lib.REPO, "docs", "man", "settings.py")
    r = subprocess.run([sys.executable, script, "--check", FOREBAYD], capture_output=True, encoding="utf-8", check=False)
    assert r.returncode == 0, r.stdout + r.stderr
    example = os.path.join(lib.REPO, "deploy", "forebayd.yaml")
    assert forebayd("--check-config", example, "--set", "peer.name=a").returncode == 0


# ---- starting and stopping ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_start_and_stop(make_cluster, number):
    peer = make_cluster(1).peers[0]
    assert 'msg="listening"' in peer.log() or "msg=listening" in peer.log()
    assert "port=%d" % peer.port in peer.log()
    peer.signal(number)
    assert peer.wait() == 0
    assert "draining" in peer.log() and "stopped" in peer.log()
    peer.start()  # the same directory and port again


def test_port_and_state_in_use(make_cluster, tmp_path):
    peer = make_cluster(1).peers[0]
    r = forebayd("--set", "peer.name=x", "--set", "peer.listen=%s" % peer.address, "--set",
                 "peer.state_dir=%s" % (tmp_path / "s"))
    assert r.returncode == 1 and "peer.listen" in r.stderr and peer.address in r.stderr, r
    state = peer.conf["peer"]["state_dir"]
    r = forebayd("--set", "peer.name=x", "--set", "peer.listen=127.0.0.1:0", "--set", "peer.state_dir=%s" % state)
    assert r.returncode == 1 and state in r.stderr and "another forebayd" in r.stderr, r
    peer.kill()  # the lock goes with the process
    peer.start()


def test_descriptors(make_cluster, tmp_path):
    """The soft limit is raised to what is needed; a hard limit below it is told, with what to do."""
    def limits(soft, hard):
        return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    r = forebayd("--set", "peer.name=x", "--set", "peer.listen=127.0.0.1:0", "--set",
                 "peer.state_dir=%s" % (tmp_path / "s"), preexec_fn=limits(256, 1000))
    assert r.returncode == 1
    assert "1000" in r.stderr and "rpc.max_connections" in r.stderr and "LimitNOFILE" in r.stderr, r.stderr
    peer = make_cluster(1, rpc={"max_connections": 2000}).peers[0]
    with open("/proc/%d/limits" % peer.pid, encoding="ascii") as f:
        soft = next(int(line.split()[3]) for line in f if line.startswith("Max open files"))
    assert soft >= 4000


# ---- SIGHUP ---------------------------------------------------------------------------------------------------------


def log_since(peer, length):
    return peer.log()[length:]


def test_reload(make_cluster):
    c = make_cluster(1, log={"level": "info"})
    peer = c.peers[0]

    def reload(change, word):
        length = len(peer.log())
        if isinstance(change, dict):
            peer.conf = lib.merge(peer.conf, change)
            peer.write_conf()
        else:
            with open(peer.conf_path, "w", encoding="utf-8") as f:
                f.write(change)
        peer.signal(signal.SIGHUP)
        lib.wait_until(lambda: word in log_since(peer, length), what=word)
        return log_since(peer, length)

    def ram_max():
        return c.status()["peers"][0]["ram_max_bytes"]

    assert ram_max() == 256 << 20
    said = reload({"ram": {"max_bytes": "64MiB"}, "log": {"level": "debug"}, "origin": {"threads": 3}}, "reloaded")
    assert "key=ram.max_bytes" in said and "key=log.level" in said
    assert [line for line in said.splitlines() if "needs a restart" in line and "key=origin.threads" in line]
    assert ram_max() == 64 << 20
    length = len(peer.log())
    c.cli("stat", "nowhere/x", check=False)
    lib.wait_until(lambda: "level=debug" in log_since(peer, length), what="a debug line")

    good = lib.to_yaml(peer.conf)
    said = reload("ram:\n  max_bytes: 3\n", "reload refused")
    assert "%s:2: ram.max_bytes" % peer.conf_path in said
    assert ram_max() == 64 << 20
    os.unlink(peer.conf_path)
    length = len(peer.log())
    peer.signal(signal.SIGHUP)
    lib.wait_until(lambda: "reload refused" in log_since(peer, length), what="refused")
    said = reload(good, "reloaded")
    assert "setting changed" not in said and "key=origin.threads" in said  # not forgotten: it still needs a restart
    said = reload({"log": {"level": "error", "format": "json"}}, "reloaded")
    length = len(peer.log())
    peer.signal(signal.SIGHUP)
    c.cli("stat", "nowhere/x", check=False)
    assert log_since(peer, length) == ""


# ---- strangers ------------------------------------------------------------------------------------------------------


def closed(sock, timeout_s):
    sock.settimeout(timeout_s * lib.SLOWNESS)
    try:
        while sock.recv(4096):
            pass
    except ConnectionError:
        pass
    return True  # a timeout is an exception of its own


def test_garbage_on_the_port(make_cluster, tmp_path):
    c = make_cluster(1, rpc={"handshake_ms": 300})
    peer, refused = c.peers[0], counter(c, "rpc_refused_preface")
    strangers = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), bytes(5000),
                 os.urandom(100000), b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"PRI * HTTP", b""]
    for data in strangers:
        with socket.create_connection(("127.0.0.1", peer.port)) as s:
            with contextlib.suppress(ConnectionError):
                s.sendall(data)
            assert closed(s, 10), data[:20]
    with socket.create_connection(("127.0.0.1", peer.port)) as s:  # a good beginning, then noise
        with contextlib.suppress(ConnectionError):
            s.sendall(PREFACE + b"\xff" * 20000)
        assert closed(s, 10)
    assert counter(c, "rpc_refused_preface") >= refused + len(strangers)
    assert health(peer.port, "", tmp_path).body == b"\x08\x01"


def test_connection_quota(make_cluster):
    c = make_cluster(1, rpc={"max_connections": 4})
    peer = c.peers[0]
    held = []
    try:
        lib.wait_until(lambda: c.status()["peers"][0]["connections"] == 1, what="the harness's own connections to go")
        for _ in range(4):
            held.append(socket.create_connection(("127.0.0.1", peer.port)))
            held[-1].sendall(PREFACE)
            assert held[-1].recv(9)  # the peer's own SETTINGS: it is served
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", peer.port)) as s:
                with contextlib.suppress(ConnectionError):
                    s.sendall(PREFACE)
                assert closed(s, 10)
        fds = peer.open_fds()
        held.pop().close()
        lib.wait_until(lambda: c.cli("status", check=False).returncode == 0, what="a place to be free")
        assert counter(c, "rpc_refused_full") >= 10
        assert peer.open_fds() <= fds + 4
    finally:
        for s in held:
            s.close()


def test_message_over_the_cap(make_cluster, tmp_path):
    peer = make_cluster(1).peers[0]
    r = grpc(peer.port, "forebay.v1.Cache/Get", bytes(OVER_CAP), tmp_path, early=True)
    assert r is None or (r.status == 8 and str(OVER_CAP - 1) in r.message), r.message
    assert health(peer.port, "", tmp_path).status == 0


def test_foreign_client(make_cluster, origin, tmp_path):
    c = make_cluster(1, roots=[origin.path])
    port = c.peers[0].port
    assert health(port, "", tmp_path).body == b"\x08\x01"
    assert health(port, "forebay.v1.Prestage", tmp_path).body == b"\x08\x01"
    r = health(port, "forebay.v9.Cache", tmp_path)
    assert r.status == 5 and "forebay.v1.Cache" in r.message
    r = grpc(port, "forebay.v1.Cache/Nothing", b"", tmp_path, early=True)
    assert r is None or (r.status, r.code) == (12, 38)
    r = grpc(port, "forebay.v1.Cache/Get", b"\x0a\x04demo\x12\x03a\0b", tmp_path)
    assert (r.status, r.code) == (3, 5006) and "NUL" in r.message
    r = grpc(port, "forebay.v1.Cache/Get", b"\xff\xff", tmp_path)
    assert r.code == 5020
    data = origin.write("dir/file", size=1000)
    c.cli("ns", "create", "demo", "--origin", origin.path)
    r = grpc(port, "forebay.v1.Cache/Get", b"\x0a\x04demo\x12\x08dir/file\x18\x64\x20\x0a", tmp_path)
    assert r.status == 0 and r.body.endswith(b"\x7a\x0a" + data[100:110])
    r = grpc(port, "forebay.v1.Cache/Get", b"\x0a\x04demo\x12\x08dir/none\x20\x0a", tmp_path)
    assert (r.status, r.code) == (5, 2) and "dir/none" in r.message


def own_counter(peer, name, tmp_path):
    """A counter as the peer tells it, without asking any other peer (the reply's counters are {1: name, 2: value})."""
    body = grpc(peer.port, "forebay.v1.Cluster/GetStats", b"", tmp_path).body
    at = body.index(b"\x0a" + bytes([len(name)]) + name.encode()) + 2 + len(name)
    value, shift = 0, 0
    if body[at:at + 1] != b"\x10":
        return 0
    for byte in body[at + 1:]:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value


# ---- the drain ------------------------------------------------------------------------------------------------------


def key_of(cluster, peer):
    """A key of the namespace `demo` that this peer owns."""
    return next(key for key in ("k%d" % i for i in range(1000))
                if cluster.cli_json("ring", "--locate", "demo/" + key)["owners"][0]["name"] == peer.name)


@pytest.fixture
def stuck(make_cluster, origin, tmp_path):
    """stuck(drain_ms, peer_timeout_ms) -> (a, b, curl, data): a Get at peer a, which waits for the key's owner b, which is
    frozen."""
    made = []

    def make(drain_ms, peer_timeout_ms=600000):
        c = make_cluster(2, roots=[origin.path], shutdown={"drain_ms": drain_ms},
                         rpc={"peer_timeout_ms": peer_timeout_ms, "default_deadline_ms": 600000})
        a, b = c.peers
        c.cli("ns", "create", "demo", "--origin", origin.path)
        key = key_of(c, b)
        data = origin.write(key, size=100)
        b.freeze()
        message = b"\x0a\x04demo\x12" + bytes([len(key)]) + key.encode() + b"\x20\x64"
        other = tmp_path / "other"
        other.mkdir()
        # Calls of b that were under way when it froze are answered; then the call that asks is alone.
        lib.wait_until(lambda: own_counter(a, "rpc_calls", other) == 1, what="quiet")
        curl = start_grpc(a.port, "forebay.v1.Cache/Get", message, tmp_path)
        made.append(curl)
        lib.wait_until(lambda: own_counter(a, "rpc_calls", other) == 2, what="the call")
        return a, b, curl, data

    yield make
    for curl in made:
        curl.kill()
        curl.communicate()


def test_drain_finishes_a_call_in_flight(stuck, tmp_path):
    a, b, curl, data = stuck(drain_ms=60000)
    a.signal(signal.SIGTERM)
    lib.wait_until(lambda: "draining" in a.log(), what="the drain")
    assert curl.poll() is None and a.running
    b.thaw()
    _, err = curl.communicate(timeout=60 * lib.SLOWNESS)
    assert curl.returncode == 0, err
    assert (tmp_path / "body").read_bytes().endswith(b"\x7a\x64" + data)
    assert a.wait() == 0
    assert "cancelled_calls=0" in a.log()


def test_drain_has_an_end(stuck):
    a, b, _, _ = stuck(drain_ms=200, peer_timeout_ms=2000)
    assert a.term() == 0
    assert "cancelled_calls=1" in a.log()
    b.thaw()


@pytest.mark.slow
def test_drain_does_not_wait_for_ever(stuck):
    """A peer that has stopped answering holds inner calls for longer than anybody wants to wait for an exit."""
    a, b, _, _ = stuck(drain_ms=200)
    assert a.term() == 0
    assert "without waiting" in a.log()
    b.thaw()


def test_second_signal_ends_at_once(stuck):
    a, b, _, _ = stuck(drain_ms=600000)
    a.expect_exit(1)
    a.signal(signal.SIGTERM)
    lib.wait_until(lambda: "draining" in a.log(), what="the drain")
    a.signal(signal.SIGHUP)  # a drain is not to be disturbed by a reload
    a.signal(signal.SIGTERM)
    assert a.wait() == 1
    b.thaw()
