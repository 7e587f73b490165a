"""Peers that die, hang, drain and come back while readers read: it costs time, never a failed read (DESIGN 2, promise 5)."""
import time

import pytest

import cluster as lib
from fbclient import Client, Error
from readers import Readers

MIB = 1 << 20


def serve(make_cluster, origin, files=24, size=MIB + 4321, **conf):
    """Three peers over a dataset that fits their memory; and its contents."""
    contents = {"f%02d" % i: origin.write("f%02d" % i, size=size) for i in range(files)}
    c = make_cluster(3, roots=[origin.path], **conf)
    c.cli("ns", "create", "demo", "--origin", origin.path)
    return c, contents


def owned_by(client, contents, name):
    keys = [k for k in contents if client.locate("demo", k)[0] == name]
    assert keys, "%s owns nothing of %d files" % (name, len(contents))
    return keys


def requests_of(cluster, name):
    return cluster.counters().get(name, {}).get("get_requests", 0)


def process_state(peer):
    with open("/proc/%d/stat" % peer.pid, encoding="ascii") as f:
        return f.read().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("any_peer", [False, True], ids=["by-ring", "any-peer"])
def test_kill_under_load(make_cluster, origin, any_peer):
    c, contents = serve(make_cluster, origin)
    victim = c.peers[0]
    with Client(c.addresses, any_peer=any_peer) as client, Readers(client, "demo", contents) as r:
        r.wait_reads(2 * len(contents))
        assert requests_of(c, victim.name) > 0, "the victim was at work"
        survivors = ",".join(p.address for p in c.peers[1:])

        def failovers():  # of the client, and of the peers that forward for it
            return client.stats().failovers + sum(p["counters"]["peer_failovers"] for p in c.status(survivors)["peers"]
                                                  if p["reachable"] and p["name"] != victim.name)

        before = failovers()
        victim.kill()
        assert victim.proc.returncode == -9
        r.wait_reads(4 * len(contents))
        assert failovers() > before, "requests met a dead peer and went on to another"
        r.assert_flawless()

        victim.start()
        lib.wait_until(lambda: requests_of(c, victim.name) > 0, 30, "the victim serves again")
        r.wait_reads(2 * len(contents))
    r.assert_flawless()


@pytest.mark.no_tsan
def test_one_peer_after_another_is_killed_and_one_is_left(make_cluster, origin):
    c, contents = serve(make_cluster, origin)
    with Client(c.addresses) as client:
        with Readers(client, "demo", contents, threads=3) as r:
            for peer in c.peers[:2]:
                r.wait_reads(len(contents))
                peer.kill()
            r.wait_reads(3 * len(contents))
        r.assert_flawless()
        last = c.peers[2]
        assert c.alive == [last]
        with Client(last.address) as fresh:  # knows but one, of which the others are said to be members
            for key, data in contents.items():
                assert fresh.get("demo", key) == data
        last.kill()
        with pytest.raises(Error) as e:
            client.get("demo", "f00")
        assert e.value.name in ("FB_EPEERDOWN", "ETIMEDOUT")
        with pytest.raises(Error) as e:
            Client(c.addresses, timeout_ms=3000 * lib.SLOWNESS)
        assert e.value.name == "FB_EPEERDOWN" and all(p.address in e.value.text for p in c.peers)
        for peer in c.peers:
            peer.start()

        def reads_again():
            try:
                return client.get("demo", "f00") == contents["f00"]
            except Error:
                return False

        lib.wait_until(reads_again, 20, "the old client finds the new peers")
        for key, data in contents.items():
            assert client.get("demo", key) == data


def test_frozen_peer(make_cluster, origin):
    """SIGSTOP: connections stay, answers do not come. Only deadlines help."""
    c, contents = serve(make_cluster, origin, rpc={"peer_timeout_ms": 500 * lib.SLOWNESS})
    victim = c.peers[1]
    limits = {"peer_timeout_ms": 500 * lib.SLOWNESS, "timeout_ms": 20000 * lib.SLOWNESS}
    with Client(c.addresses, **limits) as client, Client(c.addresses, **limits) as bystander, \
            Client(c.peers[0].address, any_peer=True, timeout_ms=20000 * lib.SLOWNESS) as through:
        hurt = owned_by(client, contents, victim.name)
        others = [k for k in contents if k not in hurt]
        for key in contents:
            assert client.get("demo", key) == contents[key]
            assert bystander.get("demo", key) == contents[key]
        victim.freeze()
        lib.wait_until(lambda: process_state(victim) == "T", 5, "the victim stops")
        before = bystander.stats()
        start = time.monotonic()
        for key in others:
            assert bystander.get("demo", key) == contents[key]
        after = bystander.stats()
        assert (after.failovers, after.retries) == (before.failovers, before.retries), "others' keys go their usual way"
        with Readers(client, "demo", contents, keys=hurt, threads=3) as r:
            r.wait_reads(3 * len(hurt))
        r.assert_flawless()
        assert client.stats().failovers > 0
        for key in hurt:
            assert through.get("demo", key) == contents[key]
        failovers = sum(p["counters"]["peer_failovers"] for p in through.status().values() if p["reachable"])
        assert failovers > 0, "a peer that forwards goes on to the next owner too"
        assert process_state(victim) == "T", "it was frozen all the time"
        assert time.monotonic() - start < 60 * lib.SLOWNESS

        victim.thaw()
        with Readers(client, "demo", contents, keys=hurt, threads=2) as r:
            served = requests_of(c, victim.name)
            lib.wait_until(lambda: requests_of(c, victim.name) > served, 30, "the thawed peer serves again")
        r.assert_flawless()
    assert victim.running


def test_restarts_one_by_one_under_load(make_cluster, origin):
    """What an upgrade does: SIGTERM, exit 0, start; nobody notices."""
    c, contents = serve(make_cluster, origin)
    with Client(c.addresses) as client, Readers(client, "demo", contents, threads=3) as r:
        for peer in c.peers:
            r.wait_reads(len(contents))
            old = peer.pid
            assert peer.term() == 0
            assert "draining" in peer.log() and "stopped" in peer.log()
            r.wait_reads(len(contents))
            peer.start()
            assert peer.pid != old
            lib.wait_until(lambda p=peer: requests_of(c, p.name) > 0, 30, "%s serves again" % peer.name)
        r.wait_reads(len(contents))
    r.assert_flawless()


@pytest.mark.no_tsan
def test_a_killed_peer_comes_back_empty_and_fills_again(make_cluster, origin):
    c, contents = serve(make_cluster, origin, files=12)
    total = sum(map(len, contents.values()))
    victim = c.peers[2]
    with Client(c.addresses) as client:
        mine = owned_by(client, contents, victim.name)
        for key in contents:
            client.get("demo", key)
        assert c.counter("origin_read_bytes") == total
        victim.kill()
        victim.start()
        assert c.counters()[victim.name]["tier_blocks"] == 0
        for key, data in contents.items():
            assert client.get("demo", key) == data

        def owner_has_them():
            for key in mine:
                client.get("demo", key)
            return c.counters()[victim.name]["origin_read_bytes"] == sum(len(contents[k]) for k in mine)

        lib.wait_until(owner_has_them, 20, "the owner's share is with the owner again")
    assert "demo" in c.cli("ns", "list", "--quiet", peers=victim.address).stdout
