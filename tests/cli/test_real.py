"""The command against real peers: what the fake cannot vouch for."""

import os

import cluster as lib
import pytest


@pytest.fixture
def loaded(make_cluster, origin):
    """Three peers and a namespace `ds` over some files."""
    origin.write("train/000.tar", size=(33 << 20) + 5)
    origin.write("train/empty", size=0)
    for i in range(50):
        origin.write("small/%02d" % i, size=100 + i)
    c = make_cluster(3, roots=[origin.path])
    c.cli("ns", "create", "ds", "--origin", origin.path)
    c.files, c.bytes = 52, (33 << 20) + 5 + sum(100 + i for i in range(50))
    return c


def test_from_nothing_to_verified(loaded, origin, tmp_path):
    c = loaded
    assert c.cli_json("ns", "show", "ds")["resident_bytes"] == 0
    listed = c.cli_json("ls", "ds", "-R")
    assert [e["key"] for e in listed["entries"]] == origin.keys() and listed["bytes"] == c.bytes
    p = c.cli_json("prestage", "ds", "--wait")
    assert (p["files_resident"], p["bytes_resident"], p["bytes_from_origin"], p["done"]) == (c.files, c.bytes, c.bytes, True)
    assert c.cli_json("prestage", "ds", "--wait")["bytes_from_origin"] == 0
    v = c.cli_json("verify", "ds")
    assert (v["same"], v["bytes"], v["differ"], v["failed"]) == (c.files, c.bytes, 0, 0)
    assert v["sources"] == {"ram": c.bytes, "nvme": 0, "origin": 0, "forwarded": 0}
    assert c.cli_json("verify", "ds", "--any-peer")["sources"]["forwarded"] > 0
    c.cli("get", "ds/train/000.tar", "-o", tmp_path / "copy")
    assert lib.sha256(tmp_path / "copy") == origin.sha256("train/000.tar")
    assert c.cli_bytes("get", "ds/train/000.tar", "--offset", 16777210, "--length", 100) == \
        origin.read("train/000.tar")[16777210:16777310]
    assert c.cli_json("invalidate", "ds/train/**")["bytes"] == (33 << 20) + 5
    assert c.cli_json("prestage", "ds/train/*", "--wait")["bytes_from_origin"] == (33 << 20) + 5
    c.cli("ns", "drop", "ds", "--yes")
    assert c.cli_json("ns", "list") == {"namespaces": []}


def test_prestage_in_the_background_goes_on(loaded):
    c = loaded
    assert c.cli_json("prestage", "ds")["background"] is True
    lib.wait_until(lambda: c.cli_json("ns", "show", "ds")["resident_bytes"] == c.bytes, 30, "all is resident")


def test_prestage_below_its_target(make_cluster, origin):
    origin.write("big", size=60 << 20)
    c = make_cluster(1, roots=[origin.path], ram={"max_bytes": "32MiB"})
    c.cli("ns", "create", "ds", "--origin", origin.path)
    r = c.cli("prestage", "ds", "--wait", "--json", check=False)
    assert r.returncode == 5 and 0 < r.json["bytes_resident"] < 60 << 20 and r.json["error"]["name"] == "FB_EBELOWTARGET"
    assert c.cli("prestage", "ds", "--wait", "--target", "10", check=False).returncode == 0


def test_verify_finds_what_differs(loaded, origin):
    """Other bytes under the same size and time of modification, and a cache that may trust its attributes for an hour (a
    listing would renew them)."""
    c = loaded
    c.cli("ns", "create", "trusting", "--origin", origin.path, "--attr-ttl-ms", "3600000")
    c.cli("verify", "trusting/train/000.tar")  # now the attributes are known where the key lives
    path = origin.full("train/000.tar")
    st = os.stat(path)
    with open(path, "r+b") as f:
        f.seek(20_000_000)
        byte = f.read(1)
        f.seek(20_000_000)
        f.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
    r = c.cli("verify", "trusting/train/000.tar", "--json", check=False)
    assert r.returncode == 6, r
    assert [(p["key"], p["outcome"], p["offset"]) for p in r.json["problems"]] == [("train/000.tar", "differs", 20_000_000)]
    c.cli("invalidate", "trusting/train/000.tar")
    c.cli("verify", "trusting/train/000.tar")


def test_verify_follows_changes(loaded, origin):
    c = loaded
    c.cli("prestage", "ds", "--wait")
    origin.write("small/00", size=5000)
    os.unlink(origin.full("small/01"))
    v = c.cli_json("verify", "ds")
    assert (v["differ"], v["failed"]) == (0, 0) and v["same"] + v["changed"] + v["vanished"] == v["files"]


def test_derived_values(loaded, tmp_path):
    c = loaded
    c.cli("ns", "create", "dv", "--derived")
    assert c.cli_json("put", "dv/a/b", "-", input=b"value")["size"] == 5
    assert c.cli_bytes("get", "dv/a/b") == b"value"
    r = c.cli("put", "dv/a/b", "-", input=b"other", check=False)
    assert r.returncode == 7 and "(EEXIST)" in r.stderr
    c.cli("put", "dv/a/b", "-", "--overwrite", input=b"")
    assert c.cli_bytes("get", "dv/a/b") == b""
    assert [e["key"] for e in c.cli_json("ls", "dv", "-R")["entries"]] == ["a/b"]


BAD_INPUT = [
    (["stat", "nope/x"], 3, "FB_ENONS"),
    (["stat", "ds/nope"], 3, "ENOENT"),
    (["stat", "ds/train/000.tar/x"], 3, "ENOTDIR"),
    (["get", "ds/train"], 7, "EISDIR"),
    (["get", "ds/train/000.tar", "--offset", "1GiB"], 2, "FB_EPASTEND"),
    (["stat", "ds/" + "k" * 1025], 2, "FB_EKEYLONG"),
    (["stat", "ds/"], 2, "FB_EKEYEMPTY"),
    (["stat", "ds/a/../b"], 2, "FB_EKEYNAME"),
    (["stat", "ds//a"], 2, "FB_EKEYNAME"),
    (["stat", "Bad_Ns!/a"], 2, "FB_ENSNAME"),
    (["ns", "create", "Bad Ns", "--derived"], 2, "FB_ENSNAME"),
    (["ns", "create", "ds", "--derived"], 7, "FB_ENSEXISTS"),
    (["ns", "create", "etc", "--origin", "/etc"], 7, "FB_EORIGINROOT"),
    (["put", "ds/x", "/dev/null"], 7, "FB_ENOTDERIVED"),
    (["--peers", "", "status"], 2, "FB_EPEERSEMPTY"),
    (["--peers", "127.0.0.1:1,127.0.0.1:1", "status"], 2, "FB_EPEERSDUP"),
    (["--peers", "nonsense", "status"], 2, "EINVAL"),
    (["--peers", "127.0.0.1:1", "status"], 4, "FB_EPEERDOWN"),
    (["--config", "/no/such/file", "status"], 3, "ENOENT"),
]


def test_bad_input(loaded, tmp_path):
    for argv, status, name in BAD_INPUT:
        env = {"FOREBAY_PEERS": ""} if "--peers" in argv or "--config" in argv else None
        r = loaded.cli(*argv, check=False, env=env)
        assert (r.returncode, r.stderr.rstrip().rpartition(" ")[2]) == (status, "(%s)" % name), r
        assert r.stdout == "" and r.stderr.startswith("forebay: ") and r.stderr.count("\n") == 1, r


def test_doctor(loaded):
    c = loaded
    r = c.cli_json("doctor", "--daemon-config", c.peers[0].conf_path)
    assert r["fail"] == 0, r
    found = {(f["check"], f["status"]) for f in r["checks"]}
    assert {("config", "ok"), ("port", "ok"), ("memory", "ok"), ("peers", "ok"), ("clock", "ok"), ("ring", "ok")} <= found
    assert any("forebayd (process %d)" % c.peers[0].pid in f["detail"] for f in r["checks"])
    c.peers[1].kill()
    r = c.cli("doctor", "--json", check=False)
    assert r.returncode == 1 and [f["check"] for f in r.json["checks"] if f["status"] == "fail"] == ["peers"]
    assert c.cli("verify", "ds", check=False).returncode == 0  # its files are read by the next owner
    assert c.cli("status", "--require-all", check=False).returncode == 4
    c.peers[0].conf["ram"] = {"max_bytez": 5}
    c.peers[0].write_conf()
    r = c.cli("doctor", "--json", "--daemon-config", c.peers[0].conf_path, check=False)
    config = [f for f in r.json["checks"] if f["check"] == "config"][0]
    assert config["status"] == "fail" and "max_bytez" in config["detail"] and c.peers[0].conf_path in config["detail"]


def test_doctor_tells_of_different_rings(make_cluster):
    c = make_cluster(2, ready=False, members=lambda own, i: [dict(m, weight=m["weight"] + i * (m is own[0])) for m in own])
    for p in c.peers:
        p.wait_ready()
    r = c.cli("doctor", "--json", check=False)
    assert r.returncode == 1
    assert "fail" in [f["status"] for f in r.json["checks"] if f["check"] == "ring"], r
