"""Limits that are reached: what is over them is refused and counted, what is within goes on, and it passes."""
import os
import random
import socket

import pytest

import cluster as lib
from fbclient import ACK_ORIGIN, ACK_RAM, DERIVED, Client, Error
from rawrpc import Raw

MIB = 1 << 20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def connect(peer):
    s = socket.create_connection(("127.0.0.1", peer.port), 10)
    s.settimeout(20 * lib.SLOWNESS)
    return s


def closed_by_peer(s):
    """Reads until the other side ends the connection; False when it goes on to be open for the socket's timeout."""
    try:
        while s.recv(65536):
            pass
        return True
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def http2(peer):
    """A connection that has been taken: our preface went out and the peer's settings came in; None if it was refused."""
    s = connect(peer)
    try:
        s.sendall(PREFACE + SETTINGS)
        if s.recv(9)[3:4] == b"\x04":
            return s
    except ConnectionError:
        pass
    s.close()
    return None


def one_peer(make_cluster, origin, **conf):
    data = origin.write("f", size=3 * MIB)
    c = make_cluster(1, roots=[origin.path], **conf)
    c.cli("ns", "create", "demo", "--origin", origin.path)
    return c, c.peers[0], data


def test_connections_over_the_quota_are_refused_and_others_go_on(make_cluster, origin):
    quota = 8
    c, peer, data = one_peer(make_cluster, origin, rpc={"max_connections": quota})
    with Client(peer.address) as client:
        assert client.get("demo", "f") == data
        held = []
        while len(held) < quota:
            s = http2(peer)
            if not s:
                break
            held.append(s)
        assert 0 < len(held) < quota, "the client's connections count too"
        status = client.status()["a"]
        assert status["connections"] == status["connections_max"] == quota
        refused = status["counters"]["rpc_refused_full"]
        assert refused > 0
        for _ in range(20):
            s = connect(peer)
            assert closed_by_peer(s), "refused at once, not left to hang"
            s.close()
        with pytest.raises(Error) as e:
            Client(peer.address, timeout_ms=3000 * lib.SLOWNESS)
        assert e.value.name == "FB_EPEERDOWN" and peer.address in e.value.text
        assert client.get("demo", "f") == data, "who is inside goes on"
        assert client.status()["a"]["counters"]["rpc_refused_full"] >= refused + 20

        for s in held:
            s.close()
        lib.wait_until(lambda: client.status()["a"]["connections"] < quota - 2, 10, "their places are free again")
        with Client(peer.address) as another:
            assert another.get("demo", "f") == data


def test_garbage_on_the_port(make_cluster, origin):
    """Port scanners, browsers, TLS clients, half a handshake, broken frames: counted and closed, and the peer stays."""
    c, peer, data = one_peer(make_cluster, origin, rpc={"handshake_ms": 300 * lib.SLOWNESS})
    rng = random.Random(5)
    not_http2 = [rng.randbytes(n) for n in (1, 23, 24, 25, 1000, 100000)] + [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500), b"\x00" * 64,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\0", b"pri * http/2.0\r\n\r\nsm\r\n\r\n"]
    not_http2 = [g for g in not_http2 if g[:1] != b"P" or g != PREFACE[:len(g)]]
    with Client(peer.address) as client:
        assert client.get("demo", "f") == data
        fds = peer.open_fds()
        for garbage in not_http2:
            s = connect(peer)
            try:
                s.sendall(garbage)
            except ConnectionError:
                pass  # it hung up before we were done
            assert closed_by_peer(s), garbage[:30]
            s.close()
        counters = client.status()["a"]["counters"]
        assert counters["rpc_refused_preface"] == len(not_http2)

        slow = [connect(peer) for _ in range(5)]  # half a preface, or nothing at all, and then silence
        for i, s in enumerate(slow):
            s.sendall(PREFACE[:5 * i])
        assert all(closed_by_peer(s) for s in slow), "after handshake_ms"
        assert client.status()["a"]["counters"]["rpc_refused_preface"] == len(not_http2) + len(slow)

        broken = [rng.randbytes(2000), b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + b"\0" * 4,
                  SETTINGS + b"\x00\x10\x00\x01\x04\x00\x00\x00\x01" + rng.randbytes(4096)]
        for garbage in broken:
            s = connect(peer)
            s.sendall(PREFACE)
            try:
                s.sendall(garbage * 3)
                s.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            assert closed_by_peer(s), garbage[:30]
            s.close()
        for s in slow:
            s.close()
        assert client.get("demo", "f") == data
        lib.wait_until(lambda: peer.open_fds() <= fds, 10, "no descriptor is left behind")
    assert peer.running


@pytest.mark.no_tsan
def test_values_over_the_limit(make_cluster, origin):
    limit = 2 * MIB
    c = make_cluster(2, roots=[origin.path], put={"max_value_bytes": limit, "max_inflight_bytes": 4 * limit})
    with Client(c.addresses) as client:
        client.ns_create("values", kind=DERIVED)
        value = origin.rng.randbytes(limit)
        client.put("values", "most", value)
        assert client.get("values", "most") == value
        with pytest.raises(Error) as e:
            client.put("values", "more", value + b"x")
        assert e.value.name == "FB_ETOOBIG" and "put.max_value_bytes" in e.value.text and str(limit) in e.value.text
        with pytest.raises(Error) as e:
            client.put("values", "most", value + b"x", overwrite=True)
        assert e.value.name == "FB_ETOOBIG"
        assert client.get("values", "most") == value
    r = c.cli("put", "values/more", "-", input=value + b"x", check=False)
    assert r.returncode == 7 and "FB_ETOOBIG" in r.stderr


def test_puts_in_flight_are_bounded(make_cluster, origin):
    """Values that are announced and never finished hold their memory until the call ends, and no more than the budget."""
    limit = 2 * MIB
    c = make_cluster(1, put={"max_value_bytes": limit, "max_inflight_bytes": 2 * limit})
    with Client(c.addresses) as client, Raw(c.peers[0].address) as raw:
        client.ns_create("values", kind=DERIVED)
        for i in range(2):
            raw.begin("Cache/Put", {1: "values", 2: "s%d" % i, 3: limit})
        value = bytes(limit)

        def refused():
            try:
                with Client(c.addresses, retries=1, timeout_ms=2000 * lib.SLOWNESS) as hasty:
                    hasty.put("values", "k", value, overwrite=True)
                return False
            except Error as e:
                assert e.name == "FB_EBUSY" and "put.max_inflight_bytes" in e.text
                return True

        lib.wait_until(refused, 10, "the budget is used up")
        raw.cancel_all()
        client.put("values", "k", value, overwrite=True)
        assert client.get("values", "k") == value


# ---- full disks and full memory ---------------------------------------------------------------------------------------


@pytest.mark.no_tsan
def test_full_disk_at_the_origin(make_cluster, make_tmpfs):
    disk = make_tmpfs(8 * MIB)
    c = make_cluster(3, roots=[disk.path])
    with Client(c.addresses) as client:
        client.ns_create("values", disk.path, kind=DERIVED, ack=ACK_ORIGIN)
        old = os.urandom(2 * MIB)
        client.put("values", "d/old", old)
        client.put("values", "other", bytes(MIB))
        before = sorted(os.walk(disk.path))
        for key, overwrite in (("d/old", True), ("d/new", False), ("d/e/f/new", False)):
            with pytest.raises(Error) as e:
                client.put("values", key, os.urandom(6 * MIB), overwrite=overwrite)
            assert e.value.name == "ENOSPC" and key in e.value.text, e.value
        r = c.cli("put", "values/cli", "-", input=bytes(6 * MIB), check=False)
        assert r.returncode == 7 and "ENOSPC" in r.stderr
        after = [(d, dirs, files) for d, dirs, files in sorted(os.walk(disk.path))]
        assert [f for _, _, f in after if f] == [f for _, _, f in before if f], "no temporary file is left"
        for peer in c.peers:
            with Client(peer.address, any_peer=True) as through:
                assert through.get("values", "d/old") == old, "the old value is as it was"
                with pytest.raises(Error) as e:
                    through.get("values", "d/new")
                assert e.value.name == "ENOENT"
        assert c.counter("origin_errors") >= 4 and all(p.running for p in c.peers)
        os.unlink(os.path.join(disk.path, "other"))
        new = os.urandom(3 * MIB)
        client.put("values", "d/new", new)
        assert client.get("values", "d/new") == new


def test_memory_full_of_values_that_must_stay(make_cluster, origin):
    """ack=ram values are nowhere else, so they are not evicted: the put is refused, and what was acknowledged stays."""
    data = origin.write("f", size=3 * MIB)
    c = make_cluster(1, roots=[origin.path], ram={"max_bytes": 16 * MIB}, cache={"uncached_max_bytes": 8 * MIB})
    with Client(c.addresses) as client:
        client.ns_create("values", kind=DERIVED, ack=ACK_RAM)
        client.ns_create("demo", origin.path)
        kept = {}
        with pytest.raises(Error) as e:
            for i in range(100):
                value = origin.rng.randbytes(MIB)
                client.put("values", "k%d" % i, value)
                kept["k%d" % i] = value
        assert e.value.name == "ENOSPC" and "ram.max_bytes" in e.value.text, e.value
        assert 8 <= len(kept) <= 16
        key = "k%d" % len(kept)
        with pytest.raises(Error) as e:
            client.get("values", key)
        assert e.value.name == "ENOENT", "nothing of the refused one"
        with pytest.raises(Error) as e:
            client.put("values", "k0", origin.rng.randbytes(8 * MIB), overwrite=True)
        assert e.value.name == "ENOSPC"
        for k, value in kept.items():
            assert client.get("values", k) == value
        assert client.get("demo", "f") == data, "reading goes on past the tier"
        counters = client.status()["a"]["counters"]
        assert counters["get_uncached_bytes"] > 0 and counters["tier_refused"] > 0
        assert client.status()["a"]["ram_used_bytes"] <= 16 * MIB
        r = c.cli("put", "values/more", "-", input=bytes(2 * MIB), check=False)
        assert r.returncode == 7 and "ENOSPC" in r.stderr
        assert client.ns_drop("values") >= len(kept) * MIB
        client.ns_create("values", kind=DERIVED, ack=ACK_RAM)
        client.put("values", "k0", kept["k0"])
        assert client.get("values", "k0") == kept["k0"]
        assert client.get("demo", "f") == data
