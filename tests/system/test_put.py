"""Values that programs put: acknowledged means kept as far as the ack level says, and nobody ever reads half of one."""
import os
import threading
import time

import pytest

import cluster as lib
import patterns
from fbclient import ACK_NVME, ACK_ORIGIN, ACK_RAM, DERIVED, Client, Error
from readers import Readers

MIB = 1 << 20


def values(make_cluster, origin, ack, **conf):
    c = make_cluster(3, roots=[origin.path], **conf)
    with Client(c.addresses) as client:
        client.ns_create("values", origin.path if ack == ACK_ORIGIN else "", kind=DERIVED, ack=ack, attr_ttl_ms=100)
    return c


@pytest.fixture(params=[ACK_RAM, ACK_ORIGIN], ids=["ram", "origin"])
def ack(request):
    return request.param


@pytest.mark.no_tsan
def test_put_and_get_through_every_peer(make_cluster, origin, ack):
    c = values(make_cluster, origin, ack)
    sizes = [0, 1, 4096, MIB - 1, MIB, MIB + 1, 20 * MIB + 7]
    for peer in c.peers:
        with Client(peer.address, any_peer=True) as through:
            for size in sizes:
                key, value = "%s/v%d" % (peer.name, size), patterns.make(size, size)
                info = through.put("values", key, value)
                assert info.size == size and info.etag
                for other in c.peers:
                    with Client(other.address, any_peer=True) as reader:
                        assert reader.get("values", key) == value
                        seen = reader.stat("values", key)
                        assert (seen.size, seen.etag) == (size, info.etag)
    assert c.counter("put_bytes") == 3 * sum(sizes)
    with Client(c.addresses) as client:
        assert sorted(k for k, _, _ in client.list("values")) == sorted("%s/v%d" % (p.name, s) for p in c.peers for s in sizes)
    stored = {k: origin.read(k) for k in origin.keys()} if ack == ACK_ORIGIN else {}
    assert len(stored) == (len(sizes) * 3 if ack == ACK_ORIGIN else 0)
    assert all(stored[k] == patterns.make(int(k.split("v")[1]), int(k.split("v")[1])) for k in stored)


@pytest.mark.no_tsan
def test_a_value_is_written_once_unless_overwritten(make_cluster, origin, ack):
    c = values(make_cluster, origin, ack)
    with Client(c.addresses) as client, Client(c.peers[0].address, any_peer=True) as through:
        first = client.put("values", "k", b"first")
        for other in (client, through):
            for value in (b"second", b"first"):
                with pytest.raises(Error) as e:
                    other.put("values", "k", value)
                assert e.value.name == "EEXIST" and "k" in e.value.text
        assert client.get("values", "k") == b"first"
        second = client.put("values", "k", b"second, and longer", overwrite=True)
        assert second.etag != first.etag
        lib.wait_until(lambda: through.get("values", "k") == b"second, and longer", 5, "at most attr_ttl later")
        with pytest.raises(Error) as e:
            client.pread("values", "k", 5, 0, first.etag)
        assert e.value.name == "FB_ECHANGED"


def test_of_many_writers_one_wins(make_cluster, origin, ack):
    c = values(make_cluster, origin, ack)
    clients = [Client(p.address, any_peer=True) for p in c.peers]
    try:
        for round_ in range(10):
            key, outcomes, barrier = "race%d" % round_, {}, threading.Barrier(9)

            def write(i):
                barrier.wait()
                try:
                    clients[i % 3].put("values", key, patterns.make(i + 1, 2 * MIB))
                    outcomes[i + 1] = "won"
                except Error as e:
                    outcomes[i + 1] = e.name

            threads = [threading.Thread(target=write, args=(i,)) for i in range(9)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            won = [i for i, o in outcomes.items() if o == "won"]
            assert len(won) == 1 and set(outcomes.values()) == {"won", "EEXIST"}, outcomes
            for client in clients:
                assert patterns.version_of(client.get("values", key)) == won[0]
    finally:
        for client in clients:
            client.close()


def test_readers_see_whole_values_while_writers_overwrite(make_cluster, origin, ack):
    c = values(make_cluster, origin, ack)
    acknowledged, stop, failures = [1], threading.Event(), []

    with Client(c.addresses) as client, Client(c.peers[1].address, any_peer=True) as through:
        client.put("values", "k", patterns.make(1, 3 * MIB))

        def write(writer, first):
            version = first
            while not stop.is_set():
                version += 2
                try:
                    writer.put("values", "k", patterns.make(version, 2 * MIB + 4096 * (version % 300)), overwrite=True)
                    acknowledged.append(version)
                except Error as e:
                    failures.append(e)
                    return

        writers = [threading.Thread(target=write, args=(client, 0)), threading.Thread(target=write, args=(through, 1))]

        def whole(_key, data):
            return patterns.version_of(data) is not None

        with Readers(client, "values", whole, 2, ["k"]) as r, Readers(through, "values", whole, 2, ["k"]) as forwarded:
            for w in writers:
                w.start()
            r.wait_reads(30)
            forwarded.wait_reads(30)
            lib.wait_until(lambda: len(acknowledged) > 10 or failures, 30, "writers write")
            stop.set()
            for w in writers:
                w.join()
        assert not failures
        for readers in (r, forwarded):
            assert not readers.wrong and set(readers.errors) <= {"FB_ECHANGED"}, (readers.wrong, readers.texts)
        last = patterns.version_of(client.get("values", "k"))
        assert last in acknowledged[-3:], "%d is not one of the last: %s" % (last, acknowledged[-5:])


@pytest.mark.no_tsan
def test_ack_origin_survives_the_owners_death(make_cluster, origin):
    c = values(make_cluster, origin, ACK_ORIGIN, rpc={"peer_timeout_ms": 1000 * lib.SLOWNESS})
    with Client(c.addresses) as client:
        keys = ["k%02d" % i for i in range(30)]
        for i, key in enumerate(keys):
            client.put("values", key, patterns.make(i, MIB + i))
        victim = c.peers[0]
        owned = [k for k in keys if client.locate("values", k)[0] == victim.name]
        assert owned
        victim.kill()
        for i, key in enumerate(keys):
            assert client.get("values", key) == patterns.make(i, MIB + i)
        assert client.stats().failovers > 0
        for key in owned:  # and writing goes on, at the next owner
            client.put("values", key + "-new", patterns.make(7, 100))
            client.put("values", key, patterns.make(8, 5000), overwrite=True)
            assert client.get("values", key + "-new") == patterns.make(7, 100)
        victim.start()
        for peer in c.peers:
            with Client(peer.address, any_peer=True) as through:
                for key in owned:
                    assert through.get("values", key) == patterns.make(8, 5000)


def test_killed_in_the_middle_of_puts(make_cluster, origin):
    """What was acknowledged before the kill is at the origin, whole; nothing else is there but whole values."""
    c = values(make_cluster, origin, ACK_ORIGIN, rpc={"peer_timeout_ms": 1000 * lib.SLOWNESS})
    acknowledged, stop = {}, threading.Event()
    with Client(c.addresses) as client:
        def write(n):
            for i in range(100000):
                if stop.is_set():
                    return
                key = "w%d/%d" % (n, i)
                try:
                    client.put("values", key, patterns.make(i + 1, MIB))
                except Error as e:
                    assert e.name in ("EEXIST", "ETIMEDOUT", "FB_EPEERDOWN", "ECANCELED"), e
                    continue  # perhaps stored, perhaps not: both is right
                acknowledged[key] = i + 1

        writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for w in writers:
            w.start()
        lib.wait_until(lambda: len(acknowledged) > 20, 30, "puts go on")
        c.peers[1].kill()
        before = len(acknowledged)
        lib.wait_until(lambda: len(acknowledged) > before + 20, 30, "puts go on without it")
        stop.set()
        for w in writers:
            w.join()
        for key, version in acknowledged.items():
            assert patterns.version_of(origin.read(key)) == version
            assert patterns.version_of(client.get("values", key)) == version
        visible = [k for k, _, _ in client.list("values")]
        assert set(acknowledged) <= set(visible)
        for key in visible:
            data = client.get("values", key)
            assert len(data) == MIB and patterns.version_of(data) is not None, "%s is not whole" % key
        temporary = [k for k in origin.keys() if k not in visible]
        assert len(temporary) <= 8, "at most what was in work: %s" % temporary


@pytest.mark.no_tsan
def test_ack_ram_lives_as_long_as_its_peer(make_cluster, origin):
    c = values(make_cluster, origin, ACK_RAM, rpc={"peer_timeout_ms": 1000 * lib.SLOWNESS})
    victim = c.peers[2]
    with Client(c.addresses) as client:
        keys = ["k%02d" % i for i in range(30)]
        for i, key in enumerate(keys):
            client.put("values", key, patterns.make(i, 10000))
        owned = {k for k in keys if client.locate("values", k)[0] == victim.name}
        assert 0 < len(owned) < len(keys)
        victim.kill()
        for i, key in enumerate(keys):
            if key in owned:
                with pytest.raises(Error) as e:
                    client.get("values", key)
                assert e.value.name == "ENOENT"
                client.put("values", key, patterns.make(i + 100, 10000))  # as a job computes it anew
            assert client.get("values", key) == patterns.make(i + (100 if key in owned else 0), 10000)
        victim.start()

        def all_there():
            for peer in c.peers:
                with Client(peer.address, any_peer=True) as through:
                    for i, key in enumerate(keys):
                        if through.get("values", key) != patterns.make(i + (100 if key in owned else 0), 10000):
                            return False
            return True

        assert all_there(), "what was put while the owner was away is found although it is back, and empty"


@pytest.mark.no_tsan
def test_a_frozen_owner_costs_a_deadline_not_the_put(make_cluster, origin):
    c = values(make_cluster, origin, ACK_ORIGIN, rpc={"peer_timeout_ms": 500 * lib.SLOWNESS})
    victim = c.peers[1]
    with Client(c.addresses, peer_timeout_ms=500 * lib.SLOWNESS, timeout_ms=10000 * lib.SLOWNESS) as client:
        keys = [k for k in ("k%d" % i for i in range(40)) if client.locate("values", k)[0] == victim.name][:4]
        victim.freeze()
        start = time.monotonic()
        for key in keys:
            client.put("values", key, patterns.make(3, MIB))
            assert patterns.version_of(client.get("values", key)) == 3
        assert time.monotonic() - start < 10 * lib.SLOWNESS * len(keys)
        assert client.stats().failovers > 0
        victim.thaw()
        with Client(victim.address, any_peer=True) as through:
            for key in keys:
                assert patterns.version_of(through.get("values", key)) == 3


@pytest.mark.no_tsan
def test_what_cannot_be_promised_is_refused(make_cluster, origin):
    c = values(make_cluster, origin, ACK_RAM)
    with Client(c.addresses) as client:
        for kwargs in ({"ack": ACK_NVME}, {"ack": ACK_ORIGIN}, {"ack": ACK_NVME, "origin": origin.path}):
            with pytest.raises(Error) as e:
                client.ns_create("other", kind=DERIVED, **kwargs)
            assert e.value.name in ("EINVAL", "EOPNOTSUPP") and "ack" in e.value.text, e.value
        assert client.ns_list() == ["values"]
    assert not os.listdir(origin.path)
