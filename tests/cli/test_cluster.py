"""status, ring and namespaces."""

import pytest


def test_status(fake):
    r = fake.ok("status")
    assert r.out.startswith("3 of 3 peers up, ring epoch 1, hash feedface12345678\n")
    assert r.out.splitlines()[2].split()[:4] == ["n1", "127.0.0.1:1", "up", "1:02:03"]
    assert "n2 gets 12345678901234567890" in fake.ok("status", "--counters").out.splitlines()
    j = fake.ok("status", "--json").json
    assert [p["name"] for p in j["peers"]] == ["n1", "n2", "n3"] and j["ring_hash"] == "feedface12345678"
    assert j["peers"][0]["counters"]["gets"] == 12345678901234567890


def test_status_with_a_peer_down(fake):
    r = fake.ok("status", FAKE_DOWN="n2", FAKE_OTHER_RING="n3")
    assert r.out.startswith("2 of 3 peers up") and " down " in r.out and "other ring" in r.out
    j = fake.ok("status", "--json", FAKE_DOWN="n2").json
    assert [p["reachable"] for p in j["peers"]] == [True, False, True] and j["peers"][1]["text"] == "connection refused"
    r = fake.fails(4, "status", "--require-all", "--json", FAKE_DOWN="n2,n3")
    assert "2 of 3" in r.text and "n2" in r.text and "connection refused" in r.text
    assert len(r.json["peers"]) == 3 and r.json["error"]["name"] == "FB_EPEERDOWN"
    fake.ok("status", "--require-all")


def test_ring(fake):
    r = fake.ok("ring", "--json", FAKE_PEERS=4).json
    assert r["slots"] == 65536 and r["max_over_mean"] == 1 and [p["slots_owned"] for p in r["peers"]] == [16384] * 4
    out = fake.ok("ring", FAKE_PEERS=4).out
    assert "max/mean 1.000" in out and out.count("25.00%") == 4
    fake.ok("ring", FAKE_PEERS=40)


def test_locate(fake):
    fake.namespace("ds", {"a": b"x"})
    assert fake.ok("ring", "--locate", "ds/a", "--offset", "32MiB").out == "slot 2\nn2 127.0.0.1:2\nn1 127.0.0.1:1\n"
    assert fake.ok("ring", "-l", "ds/a", "--json").json["owners"][0] == {"name": "n2", "address": "127.0.0.1:2"}
    assert fake.fails(3, "ring", "-l", "nope/a").name == "FB_ENONS"


def test_create(fake):
    fake.ok("ns", "create", "a", "--origin", "/data/a")
    assert fake.calls()[-1] == "fb_ns_create a kind=1 origin=/data/a ack=0 block=0 ttl=0 replicas=0 version="
    fake.ok("ns", "create", "b", "--derived", "--origin", "/data/b", "--ack", "origin", "--block-size", "64KiB",
            "--attr-ttl-ms", "5", "--version", "v 1")
    assert fake.calls()[-1] == "fb_ns_create b kind=2 origin=/data/b ack=3 block=65536 ttl=5 replicas=0 version=v 1"
    fake.ok("ns", "create", "c", "--derived", "--ack=ram")
    assert fake.calls()[-1] == "fb_ns_create c kind=2 origin= ack=1 block=0 ttl=0 replicas=0 version="
    r = fake.ok("ns", "create", "d", "--derived", "--json").json
    assert (r["name"], r["kind"], r["block_bytes"], r["id"]) == ("d", "derived", 1 << 20, "000000000000002a")
    assert fake.fails(7, "ns", "create", "a", "--derived").name == "FB_ENSEXISTS"


def test_create_takes_a_relative_origin_from_here(fake):
    (fake.cwd / "data").mkdir()
    fake.ok("ns", "create", "a", "--origin", "data")
    assert "origin=%s/data " % fake.cwd.resolve() in fake.calls()[-1]
    assert "nowhere" in fake.fails(3, "ns", "create", "b", "--origin", "nowhere").text


def test_list_and_show(fake):
    assert fake.ok("ns", "list").out.split() == ["NAME", "KIND", "BLOCK", "VERSION", "CREATED", "ORIGIN"]
    assert fake.ok("ns", "list", "--json").json == {"namespaces": []}
    fake.namespace("ds")
    fake.namespace("derived-noorigin")
    assert fake.ok("ns", "list", "-q").out == "derived-noorigin\nds\n"
    assert fake.ok("ns", "list").out.splitlines()[2].split()[:4] == ["ds", "dataset", "1.0", "MiB"]
    assert [n["kind"] for n in fake.ok("ns", "list", "--json").json["namespaces"]] == ["derived", "dataset"]
    assert "3.0 MiB in 3 blocks" in fake.ok("ns", "show", "ds").out and "ack" in fake.ok("ns", "show", "derived-noorigin").out
    assert fake.ok("ns", "show", "ds", "--json").json["resident_bytes"] == 3 << 20
    assert fake.fails(3, "ns", "show", "nope").name == "FB_ENONS"


def test_drop(fake):
    fake.namespace("ds")
    assert fake.ok("ns", "drop", "ds", "--yes").out == "dropped namespace ds, 5.0 MiB freed\n"
    assert fake.ok("ns", "drop", "ds", "-y", "--json").json == {"name": "ds", "freed_bytes": 5 << 20}
    assert fake.fails(3, "ns", "drop", "nope", "-y").name == "FB_ENONS"


@pytest.mark.parametrize("answer,dropped", [(b"y\n", True), (b"YES\n", True), (b"n\n", False), (b"\n", False), (b"\x04", False)])
def test_drop_asks_on_a_terminal(fake, terminal, answer, dropped):
    fake.namespace("ds")
    status, text = terminal("ns", "drop", "ds", type_after={b"[y/N]": answer})
    assert b"3.0 MiB resident" in text and b"origin stay" in text
    assert (status == 0) == dropped and any(c.startswith("fb_ns_drop") for c in fake.calls()) == dropped
    assert dropped or b"was not dropped (ECANCELED)" in text
