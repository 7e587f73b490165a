"""Bad input, each kind with a code of its own and a sentence that says what was expected: through the library, the CLI,
and a gRPC client that knows nothing of either."""
import concurrent.futures
import json
import re

import pytest

import cluster as lib
from fbclient import BATCH_MAX, DERIVED, Client, Error
from rawrpc import Fixed32, Fixed64, Raw, decode

MIB = 1 << 20


@pytest.fixture
def demo(make_cluster, origin):
    origin.write("dir/file", size=1000)
    c = make_cluster(3, roots=[origin.path], rpc={"peer_timeout_ms": 2000 * lib.SLOWNESS})
    c.cli("ns", "create", "demo", "--origin", origin.path)
    c.cli("ns", "create", "values", "--derived")
    return c


# What is asked of the library; the code; words of the sentence. With a namespace, key and range as in `get`.
REQUESTS = [
    ("unknown namespace", ("nosuch", "dir/file", 0, 10), "FB_ENONS", ["nosuch", "create"]),
    ("bad namespace name", ("Bad Name", "dir/file", 0, 10), "FB_ENSNAME", ["Bad Name", "a-z, 0-9"]),
    ("missing file", ("demo", "dir/none", 0, 10), "ENOENT", ["dir/none"]),
    ("range past the end", ("demo", "dir/file", 1001, 10), "FB_EPASTEND", ["1001", "1000"]),
    ("key over 1 KiB", ("demo", "k" * 1025, 0, 10), "FB_EKEYLONG", ["1024"]),
    ("empty key", ("demo", "", 0, 10), "FB_EKEYEMPTY", ["1 to 1024"]),
    ("key with ..", ("demo", "dir/../dir/file", 0, 10), "FB_EKEYNAME", [".."]),
    ("a directory", ("demo", "dir", 0, 10), "EISDIR", ["dir"]),
    ("missing file of a long name", ("demo", "/".join(["é" * 100] * 5), 0, 10), "ENOENT", ["demo/éé", "No such file"]),
    ("below a file", ("demo", "dir/file/x", 0, 10), "ENOTDIR", ["dir/file/x"]),
]


@pytest.mark.no_tsan
def test_requests(demo):
    codes = set()
    with Client(demo.addresses) as direct, Client(demo.peers[0].address, any_peer=True) as through:
        for what, (ns, key, offset, length), name, words in REQUESTS:
            texts = set()
            for client in (direct, through):
                with pytest.raises(Error) as e:
                    client.pread(ns, key, length, offset)
                assert e.value.name == name, "%s: %s" % (what, e.value)
                assert all(w in e.value.text for w in words), "%s: %s" % (what, e.value.text)
                assert len(e.value.text.split()) >= 4, "a sentence, not a word: %s" % e.value.text
                texts.add(e.value.text)
            codes.add(e.value.code)
    assert len(codes) == len({r[2] for r in REQUESTS}) == len(REQUESTS) - 1, "each kind has a code of its own"


@pytest.mark.no_tsan
def test_requests_by_cli(demo, tmp_path):
    out = tmp_path / "out"
    for what, (ns, key, offset, length), name, words in REQUESTS:
        r = demo.cli("get", "%s/%s" % (ns, key), "--offset", offset, "--length", length, "-o", out, "--json", check=False)
        exit_status = {"FB_ENONS": 3, "ENOENT": 3, "ENOTDIR": 3, "EISDIR": 7}.get(name, 2)
        assert r.returncode == exit_status, (what, r)
        assert "(%s)" % name in r.stderr and all(w in r.stderr for w in words), (what, r.stderr)
        assert r.stderr.startswith("forebay: ") and r.stderr.count("\n") == 1, "one line: %s" % r.stderr
        assert r.json["error"]["name"] == name and r.json["error"]["exit"] == exit_status
        assert not out.exists()


@pytest.mark.no_tsan
def test_values_and_namespaces(demo, origin):
    value = b"v" * 100
    with Client(demo.addresses) as client:
        client.put("values", "k", value)
        table = [
            (lambda: client.put("demo", "k", value), "FB_ENOTDERIVED", "derived"),
            (lambda: client.put("values", "k", value), "EEXIST", "overwrite"),
            (lambda: client.put("values", "big", bytes(64 * MIB + 1)), "FB_ETOOBIG", str(64 * MIB)),
            (lambda: client.get("values", "k", 99), "FB_ETOOBIG", "99"),
            (lambda: client.ns_create("values", kind=DERIVED), "FB_ENSEXISTS", "values"),
            (lambda: client.ns_create("-x", kind=DERIVED), "FB_ENSNAME", "letter or"),
            (lambda: client.ns_create("other", "/"), "FB_EORIGINROOT", "origin.roots"),
            (lambda: client.ns_create("other", origin.full("none")), "ENOENT", "none"),
            (lambda: client.ns_create("other", ""), "EINVAL", "origin"),
            (lambda: client.ns_create("other", origin.path, block_bytes=100000), "EINVAL", "power of two"),
            (lambda: client.prestage("demo", "[a"), "EINVAL", "["),
        ]
        for i, (call, name, word) in enumerate(table):
            with pytest.raises(Error) as e:
                call()
            assert e.value.name == name, (i, e.value)
            assert word in e.value.text, (i, e.value.text)
        assert client.get("values", "k") == value
        assert client.multi_get("demo", [("dir/file", 0, BATCH_MAX + 1)])[0].name == "FB_ETOOBIG"


@pytest.mark.no_tsan
def test_peer_lists(demo):
    """Of clients and of daemons: empty, duplicate, malformed, nobody there."""
    a, b = demo.peers[0].address, demo.peers[1].address
    table = [("", "FB_EPEERSEMPTY", "host:port"), (" , ", "EINVAL", "host:port"), ("%s,%s,%s" % (a, b, a), "FB_EPEERSDUP", a),
             ("%s,nocolon" % a, "EINVAL", "nocolon"), ("host:99999", "EINVAL", "99999"),
             ("127.0.0.1:%d" % lib.free_ports(1)[0], "FB_EPEERDOWN", "127.0.0.1")]
    for peers, name, word in table:
        with pytest.raises(Error) as e:
            Client(peers, timeout_ms=4000 * lib.SLOWNESS)
        assert e.value.name == name and word in e.value.text, (peers, e.value)
        r = demo.cli("status", "--peers", peers, "--timeout-ms", 4000 * lib.SLOWNESS, check=False) if peers else \
            demo.cli("status", check=False, peers="")
        assert r.returncode == (4 if name == "FB_EPEERDOWN" else 2) and "(%s)" % name in r.stderr, (peers, r)


@pytest.mark.no_tsan
@pytest.mark.parametrize("members, words", [
    (lambda own, i: [own[0], own[0]], ["twice"]),
    (lambda own, i: [own[0], {**own[0], "name": "z"}], ["same address"]),
    (lambda own, i: [{**own[0], "name": "z", "address": "127.0.0.1:1"}], ["peer.name", "not in cluster.members"]),
    (lambda own, i: [{**own[0], "address": "nonsense"}], ["nonsense", "HOST:PORT"]),
    (lambda own, i: [{**own[0], "weight": 0}], ["weight", "1..65535"]),
], ids=["same twice", "address twice", "not in it", "bad address", "weight 0"])
def test_member_lists_of_daemons(make_cluster, members, words):
    with pytest.raises(lib.ClusterError) as e:
        make_cluster(1, members=members)
    text = str(e.value)
    assert "ended at its start with 78" in text, text
    assert "a.yaml" in text and all(w in text for w in words), text


# ---- what no client of ours would send ------------------------------------------------------------------------------------


RAW = [
    ("NUL in the key", "Cache/Get", {1: "demo", 2: b"dir\0file", 4: 10}, "INVALID_ARGUMENT", 5006, "NUL"),
    ("key not UTF-8", "Cache/Get", {1: "demo", 2: b"\xff\xfe", 4: 10}, "INVALID_ARGUMENT", 5006, "UTF-8"),
    ("no key", "Cache/Get", {1: "demo", 4: 10}, "INVALID_ARGUMENT", 5004, "1 to 1024"),
    ("key over 1 KiB", "Cache/Get", {1: "demo", 2: "k" * 1025, 4: 1}, "INVALID_ARGUMENT", 5005, "1024"),
    ("no namespace", "Cache/Get", {2: "dir/file", 4: 10}, "INVALID_ARGUMENT", 5003, "a-z, 0-9"),
    ("unknown namespace", "Cache/Get", {1: "nosuch", 2: "dir/file", 4: 10}, "NOT_FOUND", 5001, "create"),
    ("missing file", "Cache/Stat", {1: "demo", 2: "none"}, "NOT_FOUND", 2, "none"),
    ("past the end", "Cache/Get", {1: "demo", 2: "dir/file", 3: 1001, 4: 1}, "OUT_OF_RANGE", 5007, "1000"),
    ("length over the limit", "Cache/Get", {1: "demo", 2: "dir/file", 4: BATCH_MAX + 1}, "RESOURCE_EXHAUSTED", 5008,
     "4194304"),
    ("message over the cap", "Cache/Get", {1: "demo", 2: "k" * (5 * MIB), 4: 1}, "RESOURCE_EXHAUSTED", None, "larger than max"),
    ("rubbish", "Cache/Get", b"\xff" * 50, "INTERNAL", 5020, "GetRequest"),
    ("cut off", "Cache/Get", b"\x0a\x7fdemo", "INTERNAL", 5020, "GetRequest"),
    ("other ring", "Cache/Get", {1: "demo", 2: "dir/file", 4: 1, 6: b"\x09" + b"\x11" * 8}, "FAILED_PRECONDITION", 5011,
     "1111111111111111"),
    ("other namespace id", "Cache/Get", {1: "demo", 2: "dir/file", 4: 1, 6: b"\x19" + b"\x01" * 8}, "NOT_FOUND", 5001,
     "dropped"),
    ("no such version", "Cache/Get", {1: "demo", 2: "dir/file", 4: 1, 5: Fixed64(12345)}, "ABORTED", 5012, "version"),
    ("no such method", "Cache/Fetch", {}, "UNIMPLEMENTED", None, ""),
    ("no such service", "/forebay.v9.Cache/Get", {}, "UNIMPLEMENTED", None, ""),
    ("prestage of nothing", "Prestage/Warm", {1: "demo"}, "INVALID_ARGUMENT", 22, "1 to 256"),
]


def test_raw_calls(demo):
    peer = demo.peers[0]
    with Raw(peer.address) as raw:
        for what, method, message, status, code, word in RAW:
            r = raw.call(method, message)
            assert r.status == status, "%s: %s" % (what, r)
            if code is not None:
                assert r.code == code, "%s: %s" % (what, r)
            assert word in r.text and r.text, "%s: %s" % (what, r)
        item = {1: "dir/file", 3: 10}
        for n, status, code in ((1024, "OK", 0), (1025, "INVALID_ARGUMENT", 22)):
            r = raw.call("Cache/MultiGet", {1: "demo", 2: [item] * n}, replies="stream")
            assert (r.status, r.code, len(r.messages)) == (status, code, n if status == "OK" else 0), r
        r = raw.call("Cache/MultiGet", {1: "demo", 2: [item, {1: "a/../b", 3: 1}, {1: "k" * 1025, 3: 1}, {1: "none", 3: 1}]},
                     replies="stream")
        codes = {m.get(1, [0])[0]: decode(m.get(2, [b""])[0]).get(1, [0])[0] for m in r.messages}
        assert r.status == "OK" and codes == {0: 0, 1: 5006, 2: 5005, 3: 2}, r
        ok = raw.call("Cache/Get", {1: "demo", 2: "dir/file", 4: 4 * MIB})
        assert ok.status == "OK" and len(ok.fields[15][0]) == 1000 == ok.fields[2][0]
        health = raw.call("/grpc.health.v1.Health/Check", {})
        assert health.fields == {1: [1]}, "SERVING"
    assert peer.running


PUTS = [
    ("fewer bytes than announced", [{1: "values", 2: "p", 3: 10, 4: Fixed32(0)}, {15: b"12345"}], "INTERNAL"),
    ("more bytes than announced", [{1: "values", 2: "p", 3: 10, 4: Fixed32(0)}, {15: b"12345678901"}], "INTERNAL"),
    ("wrong checksum", [{1: "values", 2: "p", 3: 5, 4: Fixed32(0)}, {15: b"12345"}], "DATA_LOSS"),
    ("no first message", [], "INTERNAL"),
    ("no key", [{1: "values", 3: 5}, {15: b"12345"}], "INVALID_ARGUMENT"),
    ("NUL in the key", [{1: "values", 2: b"a\0b", 3: 5}, {15: b"12345"}], "INVALID_ARGUMENT"),
    ("over the value limit", [{1: "values", 2: "p", 3: 64 * MIB + 1}], "RESOURCE_EXHAUSTED"),
    ("announced beyond all reason", [{1: "values", 2: "p", 3: 2**63}], "RESOURCE_EXHAUSTED"),
    ("into a dataset", [{1: "demo", 2: "p", 3: 0}], "FAILED_PRECONDITION"),
    ("one message too large", [{1: "values", 2: "p", 3: 2 * MIB}, {15: bytes(2 * MIB)}], "RESOURCE_EXHAUSTED"),
]


def test_raw_puts(demo):
    with Raw(demo.peers[0].address) as raw, Client(demo.addresses) as client:
        for what, messages, status in PUTS:
            r = raw.call("Cache/Put", *messages)
            assert r.status == status and r.text, "%s: %s" % (what, r)
            with pytest.raises(Error) as e:
                client.get("values", "p")
            assert e.value.name == "ENOENT", "%s stored something" % what
        client.put("values", "p", b"12345")
        assert client.get("values", "p") == b"12345"


# ---- rings that differ ------------------------------------------------------------------------------------------------


@pytest.mark.no_tsan
def test_two_peers_with_different_rings(make_cluster, origin):
    """One of two peers was restarted with another member list: nothing is read by a wrong plan, and everybody says why."""
    contents = {"f%02d" % i: origin.write("f%02d" % i, size=1000) for i in range(32)}
    c = make_cluster(2, roots=[origin.path], catalog={"sync_ms": 200})
    c.cli("ns", "create", "demo", "--origin", origin.path)
    two = c.peers[1]
    two.term()
    right = two.conf["cluster"]["members"]
    two.conf["cluster"]["members"] = [right[0], {**right[1], "weight": 300}]
    two.start()
    hashes = set()
    for peer in c.peers:
        with Raw(peer.address) as raw:
            hashes.add("%016x" % raw.call("Cluster/GetRing", {}).fields[3][0])
    assert len(hashes) == 2, "each answers with its own"

    def read(client, key):
        try:
            assert client.get("demo", key) == contents[key]
            return None
        except Error as e:
            assert e.name == "FB_ERING", e
            return e.text

    def read_all(client):
        """The texts of the refusals. All at once: a client asks for a second whether the peers come to agree."""
        with concurrent.futures.ThreadPoolExecutor(len(contents)) as pool:
            return [text for text in pool.map(lambda key: read(client, key), contents) if text]

    for peer in c.peers:  # what a peer has to ask the other one for is refused
        with Client(peer.address, any_peer=True) as client:
            refusals = lib.wait_until(lambda: read_all(client), 10, "the other one is asked again after its restart")
            assert len(refusals) < len(contents)
            for text in refusals:
                assert set(re.findall(r"\b[0-9a-f]{16}\b", text)) >= hashes, "both hashes: %s" % text
                assert "cluster.members" in text
    with Client(c.addresses) as client:
        read_all(client)
        assert sum(p["counters"]["ring_refused"] for p in client.status().values() if p["reachable"]) > 0

    r = c.cli("doctor", "--json", check=False)
    assert r.returncode == 1, r
    rings = [k for k in json.loads(r.stdout)["checks"] if k["check"] == "ring" and k["status"] == "fail"]
    assert rings and all(h in str(rings) for h in hashes), rings
    assert "cluster.members" in str(rings), "what to do: %s" % rings
    lib.wait_until(lambda: all("different ring" in p.log() for p in c.peers), 20, "the peers find out by themselves")

    two.term()
    two.conf["cluster"]["members"] = right
    two.start()
    with Client(c.addresses) as client, Client(c.peers[0].address, any_peer=True) as through:
        lib.wait_until(lambda: not read_all(through), 10, "all is well with the right list")
        assert not read_all(client)
    assert c.cli("doctor").returncode == 0
