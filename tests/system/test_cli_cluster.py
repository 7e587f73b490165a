"""What the commands say about a cluster is so: owners own, counts add up, and a command that fails says it and spoils
nothing. (tests/cli has their syntax and their faces.)"""
import os
import signal
import subprocess
import threading

import pytest

import cluster as lib
import patterns
from fbclient import Client
from rawrpc import Raw

pytestmark = pytest.mark.no_tsan

MIB = 1 << 20
CHUNK = 16 * MIB


def serve(make_cluster, directory, files, *options, **conf):
    contents = {key: directory.write(key, size=size) for key, size in files.items()}
    c = make_cluster(3, roots=[directory.path], **conf)
    c.cli("ns", "create", "demo", "--origin", directory.path, *options)
    return c, contents


def test_status_and_ring_tell_what_is(make_cluster):
    c = make_cluster(3, weights=[100, 200, 300])
    for peer in c.peers:
        status = c.cli_json("status", peers=peer.address)
        assert status["epoch"] == 1 and status["slots"] == 65536 and len(status["ring_hash"]) == 16
        assert [p["name"] for p in status["peers"]] == ["a", "b", "c"]
        for p, member in zip(status["peers"], c.members):
            assert (p["address"], p["weight"], p["domain"], p["reachable"]) == (
                member["address"], member["weight"], member["domain"], True)
            assert p["ring_hash"] == status["ring_hash"] and not p["draining"] and p["version"]
            assert p["ram_max_bytes"] == 256 * MIB and p["ram_used_bytes"] < MIB and p["uptime_ns"] > 0
            assert 0 < p["connections"] <= p["connections_max"] and abs(p["clock_skew_ns"]) < 10**9
            assert p["counters"]["get_requests"] == 0
    ring = c.cli_json("ring")
    assert sum(p["slots_owned"] for p in ring["peers"]) == ring["slots"] == 65536
    assert ring["ring_hash"] == status["ring_hash"] and 1 <= ring["max_over_mean"] <= 1.10
    for p in ring["peers"]:
        assert abs(p["slots_owned"] / 65536 - p["weight"] / 600) < 0.10 * p["weight"] / 600
    c.peers[1].kill()
    status = c.cli_json("status")
    assert [p["reachable"] for p in status["peers"]] == [True, False, True]
    assert c.peers[1].address in str(status["peers"][1]) and status["peers"][1]["text"]
    assert c.cli("status").stdout.startswith("2 of 3 peers up")
    assert c.cli("status", "--require-all", check=False).returncode == 4
    for peer in c.peers:
        peer.kill()
    r = c.cli("status", "--json", "--timeout-ms", 3000 * lib.SLOWNESS, check=False)
    assert r.returncode == 4 and r.json["error"]["name"] == "FB_EPEERDOWN", r


def test_who_is_said_to_own_a_key_serves_it(make_cluster, origin):
    c, contents = serve(make_cluster, origin, {"big": 3 * CHUNK, **{"s%02d" % i: 100 for i in range(20)}})
    places = [("big", at) for at in range(0, 3 * CHUNK, CHUNK)] + [(k, 0) for k in contents if k != "big"]
    owners = set()
    with Raw(c.peers[0].address) as a, Raw(c.peers[1].address) as b, Raw(c.peers[2].address) as other:
        for key, offset in places:
            said = c.cli_json("ring", "--locate", "demo/" + key, "--offset", offset)
            names = [o["name"] for o in said["owners"]]
            assert sorted(names) == ["a", "b", "c"] and said["slot"] < 65536, "owner and who comes next"
            for raw in (a, b, other):  # whomever one asks
                reply = raw.call("Cache/Get", {1: "demo", 2: key, 3: offset, 4: 100})
                assert reply.fields[4] == [names[0].encode()], (key, offset, reply)
                assert reply.fields[15][0] == contents[key][offset:offset + 100]
                located = raw.call("Cluster/Locate", {1: "demo", 2: key, 3: offset})
                assert located.fields[2] == [n.encode() for n in names] and located.fields.get(1, [0]) == [said["slot"]]
            owners.add(names[0])
    assert owners == {"a", "b", "c"}


def test_long_listings(make_cluster, origin):
    files = {"d%d/f%04d" % (i % 3, i): i % 7 for i in range(3500)}
    c, _ = serve(make_cluster, origin, files)
    assert c.cli("ls", "demo", "-R", "--quiet").stdout.splitlines() == sorted(files)
    listed = c.cli_json("ls", "demo/d1", "-R")["entries"]
    assert [(e["key"], e["size"]) for e in listed] == sorted((k, n) for k, n in files.items() if k.startswith("d1/"))
    assert c.cli("ls", "demo", "--quiet").stdout.split() == ["d0", "d1", "d2"] or \
        c.cli("ls", "demo", "--quiet").stdout.split() == ["d0/", "d1/", "d2/"]
    assert len(c.cli("ls", "demo", "-R", "-q", "--limit", 1700).stdout.splitlines()) == 1700
    r = c.cli("ls", "demo/none", check=False)
    assert r.returncode == 3 and "none" in r.stderr


def test_a_failed_get_spoils_no_file(make_cluster, origin, tmp_path):
    c, contents = serve(make_cluster, origin, {"f": 40 * MIB})
    out = tmp_path / "out"
    out.write_bytes(b"precious")
    r = c.cli("get", "demo/none", "-o", out, check=False)
    assert r.returncode == 3 and out.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["origin", "out"], "nothing else is left"
    c.cli("get", "demo/f", "-o", out)
    assert out.read_bytes() == contents["f"]
    p = c.popen("get", "demo/f")  # a reader that goes away: `forebay get ... | head -c 10`
    assert p.stdout.read(10) == contents["f"][:10]
    p.stdout.close()
    assert p.wait(30 * lib.SLOWNESS) in (-signal.SIGPIPE, 1)
    p.stderr.close()
    with open("/dev/full", "wb") as full:
        p = c.popen("get", "demo/f", stdout=full, stderr=subprocess.PIPE)
        _, err = p.communicate(timeout=30 * lib.SLOWNESS)
    assert p.returncode != 0 and b"ENOSPC" in err, "a disk that is full here is not silence"


def test_verify_while_the_origin_changes(make_cluster, origin):
    """Files that are rewritten meanwhile are told apart from bytes that differ."""
    files = {"f%02d" % i: patterns.make(1, MIB) for i in range(12)}
    for key, data in files.items():
        origin.write(key, data)
    c = make_cluster(3, roots=[origin.path])
    c.cli("ns", "create", "demo", "--origin", origin.path, "--attr-ttl-ms", 50)
    c.cli("prestage", "demo", "--wait")
    stop = threading.Event()

    def rewrite():
        version = 2
        while not stop.is_set():
            for key in files:
                origin.replace(key, patterns.make(version, MIB))
            version += 1

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(3):
            r = c.cli("verify", "demo", "--json", check=False)
            told = r.json  # files in the making (f00.new) may be listed too, and be gone
            assert told["differ"] == 0 and told["files"] >= len(files), r
            assert sum(told[k] for k in ("same", "changed", "vanished", "failed")) == told["files"]
            assert {p["name"] for p in r.json["problems"] if p["outcome"] == "failed"} <= {"FB_ECHANGED"}, r
    finally:
        stop.set()
        writer.join()
    lib.wait_until(lambda: c.cli_json("verify", "demo", check=False)["same"] == len(files), 10, "it settles")


def test_where_the_peers_come_from(make_cluster, origin, tmp_path):
    """--peers, $FOREBAY_PEERS, $FOREBAY_CONFIG, --config; and any member is enough."""
    c, _ = serve(make_cluster, origin, {"f": 10})
    conf = tmp_path / "client.yaml"
    conf.write_text("peers: [%s]\ntimeout_ms: 20000\n" % c.peers[2].address)
    for args, env in ((["--peers", c.peers[0].address], {"FOREBAY_PEERS": None}), ([], {"FOREBAY_PEERS": c.peers[1].address}),
                      (["--config", conf], {"FOREBAY_PEERS": None}),
                      ([], {"FOREBAY_PEERS": None, "FOREBAY_CONFIG": str(conf)})):
        r = c.cli("status", "--json", *args, env=env)
        assert len(r.json["peers"]) == 3 and all(p["reachable"] for p in r.json["peers"])
    conf.write_text("peers: [%s]\ntimeoutms: 5\n" % c.peers[2].address)
    r = c.cli("status", "--config", conf, env={"FOREBAY_PEERS": None}, check=False)
    assert r.returncode == 2 and "timeoutms" in r.stderr and "client.yaml:2" in r.stderr, r
    conf.write_text("peers: [%s]\n" % c.peers[2].address)
    with Client(config=str(conf)) as client:
        assert len(client.get("demo", "f")) == 10


def test_json_is_one_object_and_text_is_not(make_cluster, origin):
    c, _ = serve(make_cluster, origin, {"f": 10})
    for words in ("status", "ring", "ns list", "ns show demo", "ls demo", "stat demo/f", "ring --locate demo/f",
                  "prestage demo --wait", "verify demo", "invalidate demo", "doctor"):
        r = c.cli(*words.split(), "--json")
        assert isinstance(r.json, dict) and "error" not in r.json, r
        assert r.stdout.count("\n") == 1 and r.stdout[-1] == "\n", r
        r = c.cli(*words.split())
        assert r.stdout and not r.stdout.startswith("{"), r
