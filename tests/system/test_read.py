"""Reading: every peer serves everything, ranges are exact, and the origin is read once however many ask."""
import hashlib
import os
import random

import pytest

import cluster as lib
from fbclient import BATCH_MAX, Client, Error
from readers import Readers, run_processes

MIB = 1 << 20
CHUNK = 16 * MIB


def dataset(cluster, origin, name="demo", *options):
    cluster.cli("ns", "create", name, "--origin", origin.path, *options)


def test_every_peer_serves_everything_and_the_origin_is_read_once(make_cluster, origin):
    sizes = [0, 1, 100, 65536, MIB - 1, MIB, MIB + 1, 2 * CHUNK + 9 * MIB + 17]
    contents = {"d%d/f%d.bin" % (i % 3, size): origin.write("d%d/f%d.bin" % (i % 3, size), size=size)
                for i, size in enumerate(sizes)}
    total = sum(sizes)
    c = make_cluster(3, roots=[origin.path])
    dataset(c, origin)
    for peer in c.peers:
        with Client(peer.address, any_peer=True) as client:
            for key, data in contents.items():
                assert client.get("demo", key) == data, "%s through %s" % (key, peer.name)
            assert client.stats().bytes_forwarded > 0, "no peer owns everything"
    assert c.counter("origin_read_bytes") == total
    with Client(c.addresses) as client:  # now by the ring, straight to the owners
        for key, data in contents.items():
            assert client.get("demo", key) == data
        stats = client.stats()
        assert stats.bytes_ram == total and stats.bytes_origin == 0 and stats.bytes_forwarded == 0
    counters = c.counters()
    assert sum(p["origin_read_bytes"] for p in counters.values()) == total
    assert all(p["get_ram_bytes"] > 0 for p in counters.values()), "the large file's chunks lie on all peers"


@pytest.mark.no_tsan
def test_ranges_are_exact(make_cluster, origin):
    size = CHUNK + 3 * MIB + 12345
    data = origin.write("f", size=size)
    c = make_cluster(3, roots=[origin.path])
    dataset(c, origin)
    rng = random.Random(7)
    edges = [0, 1, MIB - 1, MIB, CHUNK - 1, CHUNK, CHUNK + 1, size - 1, size]
    ranges = [(o, n) for o in edges for n in (0, 1, 4096, MIB + 1, 5 * MIB)]
    ranges += [(rng.randrange(size), rng.randrange(1, 200000)) for _ in range(100)]
    with Client(c.addresses) as direct, Client(c.peers[0].address, any_peer=True) as through:
        for client in (direct, through):
            for offset, n in ranges:
                assert client.pread("demo", "f", n, offset) == data[offset:offset + n], (offset, n)
            for offset in (size + 1, size + CHUNK, 2**62):
                with pytest.raises(Error) as e:
                    client.pread("demo", "f", 10, offset)
                assert e.value.name == "FB_EPASTEND" and str(size) in e.value.text
        ranges = [(o, min(n, BATCH_MAX)) for o, n in ranges]
        got = direct.multi_get("demo", [("f", o, n) for o, n in ranges] + [("f", 0, BATCH_MAX + 1)])
        assert got[:-1] == [data[o:o + n] for o, n in ranges]
        assert got[-1].name == "FB_ETOOBIG"
    r = c.cli("get", "demo/f", "--offset", CHUNK - 5, "--length", 10)
    assert r.raw == data[CHUNK - 5:CHUNK + 5]


def test_multi_get_of_1000_keys(make_cluster, origin):
    contents = {"s/%03d/%04d" % (i % 7, i): origin.write("s/%03d/%04d" % (i % 7, i), size=origin.rng.randrange(0, 9000))
                for i in range(1000)}
    missing = ["s/000/none%d" % i for i in range(5)]
    keys = sorted(contents) + missing
    origin.rng.shuffle(keys)
    c = make_cluster(3, roots=[origin.path])
    dataset(c, origin)
    for options in ({}, {"any_peer": True}):
        with Client(c.addresses, **options) as client:
            for key, got in zip(keys, client.multi_get("demo", [(k, 0, 10000) for k in keys])):
                if key in contents:
                    assert got == contents[key], key
                else:
                    assert isinstance(got, Error) and got.name == "ENOENT", key
    assert c.counter("origin_read_bytes") == sum(map(len, contents.values()))


def test_many_readers_of_a_cold_object_read_the_origin_once(make_cluster, origin):
    """Whether readers meet is chance on a busy machine, so cold files are tried until some did; the count holds always."""
    size, read = CHUNK + 5 * MIB + 3, 0
    c = make_cluster(3, roots=[origin.path], origin={"threads": 2})
    dataset(c, origin)
    peers = [p.address for p in c.peers]
    for attempt in range(8):
        key = "cold%d.bin" % attempt
        digest = hashlib.sha256(origin.write(key, size=size)).hexdigest()
        results = run_processes(peers, "demo", [key], processes=3, threads=5, any_peer=True)
        assert len(results) == 15 and all(r == {key: digest} for r in results), results
        read += size
        assert c.counter("origin_read_bytes") == read
        if c.counter("fill_joined") > 0:
            break
    assert c.counter("fill_joined") > 0, "the readers met: at least one waited for another's fetch"
    results = run_processes([c.addresses], "demo", [key], processes=1, threads=4)
    assert all(r == {key: digest} for r in results)
    assert c.counter("origin_read_bytes") == read


@pytest.mark.no_tsan
def test_names_of_all_kinds(make_cluster, origin):
    long_key = "/".join(["x" * 127] * 8)
    assert len(long_key) == 1023
    long_key += "y"
    keys = ["plain", "with space", "данные/画像/🦀.bin", "quote'\"\\back", "line\nbreak", "-dash", "a/.hidden", "*glob?[x]",
            "e\u0301 and \u00e9", "...", long_key]
    contents = {key: origin.write(key, size=300 + i) for i, key in enumerate(keys)}
    origin.write("empty", b"")
    contents["empty"] = b""
    c = make_cluster(3, roots=[origin.path])
    dataset(c, origin)
    with Client(c.addresses) as client, Client(c.peers[2].address, any_peer=True) as through:
        for key, data in contents.items():
            assert client.get("demo", key) == data == through.get("demo", key), key
            assert client.stat("demo", key).size == len(data)
        assert sorted(client.list("demo")) == sorted((k, len(d), False) for k, d in contents.items())
        assert client.pread("demo", "empty", 100) == b""
        with pytest.raises(Error) as e:
            client.pread("demo", "empty", 1, 1)
        assert e.value.name == "FB_EPASTEND"
        with pytest.raises(Error) as e:
            client.get("demo", long_key + "z")
        assert e.value.name == "FB_EKEYLONG"
    assert c.cli_bytes("get", "demo/empty") == b""
    assert c.cli_bytes("get", "demo/данные/画像/🦀.bin") == contents["данные/画像/🦀.bin"]


@pytest.mark.no_tsan
def test_stat_tells_what_the_file_is(make_cluster, origin):
    origin.write("d/f", size=777)
    os.utime(origin.full("d/f"), ns=(1, 1234567890123456789))
    c = make_cluster(3, roots=[origin.path])
    dataset(c, origin)
    etags = set()
    for peer in c.peers:
        with Client(peer.address, any_peer=True) as client:
            info = client.stat("demo", "d/f")
            assert (info.size, info.mtime_ns, info.directory) == (777, 1234567890123456789, False)
            etags.add(info.etag)
            with pytest.raises(Error) as e:
                client.stat("demo", "d/none")
            assert e.value.name == "ENOENT" and "d/none" in e.value.text
            with pytest.raises(Error) as e:
                client.get("demo", "d")
            assert e.value.name == "EISDIR"
            with pytest.raises(Error) as e:
                client.get("demo", "d/f/g")
            assert e.value.name == "ENOTDIR"
    assert len(etags) == 1 and etags != {0}


def test_a_dataset_larger_than_all_memory(make_cluster, origin):
    ram, uncached = 16 * MIB, 8 * MIB
    contents = {"f%02d" % i: origin.write("f%02d" % i, size=5 * MIB + i * 1000) for i in range(24)}
    c = make_cluster(3, roots=[origin.path], ram={"max_bytes": ram}, cache={"uncached_max_bytes": uncached})
    dataset(c, origin)
    before = [p.rss_bytes() for p in c.peers]
    with Client(c.addresses) as client:
        with Readers(client, "demo", contents, threads=3) as r:
            r.wait_reads(3 * len(contents), timeout_s=60)
        r.assert_flawless()
    for peer, rss, (_, counters) in zip(c.peers, before, sorted(c.counters().items())):
        assert counters["tier_evictions"] > 0
        if not lib.SANITIZED:
            assert peer.rss_bytes() - rss < ram + uncached + 48 * MIB, "memory of %s is not bounded" % peer.name
    for p in c.status()["peers"]:
        assert p["ram_used_bytes"] <= p["ram_max_bytes"] == ram
    assert c.counter("origin_read_bytes") > sum(map(len, contents.values())), "what was evicted was read again"


@pytest.mark.no_tsan
def test_invalidate_makes_the_next_read_ask_the_origin(make_cluster, origin):
    contents = {k: origin.write(k, size=MIB + 5) for k in ("a/1", "a/2", "b/1")}
    c = make_cluster(3, roots=[origin.path])
    dataset(c, origin)
    with Client(c.addresses) as client:
        for key, data in contents.items():
            assert client.get("demo", key) == data
        read = c.counter("origin_read_bytes")
        assert client.invalidate("demo", "a/*") == (4, 2 * (MIB + 5))
        assert client.invalidate("demo", "a/*") == (0, 0)
        for key, data in contents.items():
            assert client.get("demo", key) == data
        assert c.counter("origin_read_bytes") == read + 2 * (MIB + 5)
    assert c.counter("invalidated_blocks") == 4
