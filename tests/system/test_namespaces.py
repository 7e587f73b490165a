"""Namespaces: made anywhere, known everywhere, also to a peer that was away; dropped, their memory is free."""
import threading

import pytest

import cluster as lib
from fbclient import ACK_RAM, DATASET, DERIVED, Client, Error

MIB = 1 << 20


def each(cluster):
    return [Client(p.address, any_peer=True) for p in cluster.peers]


@pytest.mark.no_tsan
def test_what_one_peer_makes_all_know(make_cluster, origin):
    data = origin.write("f", size=MIB + 1)
    c = make_cluster(3, roots=[origin.path])
    clients = each(c)
    try:
        for i, client in enumerate(clients):
            made = client.ns_create("ns%d" % i, origin.path, attr_ttl_ms=1234 + i, block_bytes=65536 << i, version="v%d" % i)
            for other in clients:
                seen = other.ns_show("ns%d" % i)
                assert (seen.id, seen.kind, seen.attr_ttl_ms, seen.block_bytes, seen.version, seen.origin.decode()) == (
                    made.id, DATASET, 1234 + i, 65536 << i, b"v%d" % i, origin.path)
                assert other.get("ns%d" % i, "f") == data
        for client in clients:
            assert client.ns_list() == ["ns0", "ns1", "ns2"]
            with pytest.raises(Error) as e:
                client.ns_create("ns1", origin.path)
            assert e.value.name == "FB_ENSEXISTS"
        clients[2].ns_drop("ns0")
        for client in clients:
            assert client.ns_list() == ["ns1", "ns2"]
            for call in (lambda k=client: k.get("ns0", "f"), lambda k=client: k.ns_show("ns0"),
                         lambda k=client: k.ns_drop("ns0"), lambda k=client: k.stat("ns0", "f")):
                with pytest.raises(Error) as e:
                    call()
                assert e.value.name == "FB_ENONS"
        assert origin.read("f") == data, "a drop touches no file"
    finally:
        for client in clients:
            client.close()


@pytest.mark.no_tsan
def test_a_peer_that_was_away_learns(make_cluster, origin):
    data = origin.write("f", size=100)
    c = make_cluster(3, roots=[origin.path], catalog={"sync_ms": 200})
    away = c.peers[1]
    with Client(c.addresses) as client:
        client.ns_create("before", origin.path)
        client.ns_create("doomed", origin.path)
        away.kill()
        client.ns_create("meanwhile", origin.path)
        client.ns_drop("doomed")
        assert client.get("meanwhile", "f") == data
    away.start()
    with Client(away.address, any_peer=True) as there:
        assert there.get("meanwhile", "f") == data, "asked for it, it asks the others"
        lib.wait_until(lambda: there.ns_list() == ["before", "meanwhile"], 10, "it learns of the drop as well")
        with pytest.raises(Error) as e:
            there.get("doomed", "f")
        assert e.value.name == "FB_ENONS"


@pytest.mark.no_tsan
def test_the_catalog_survives_restarts(make_cluster, origin):
    data = origin.write("f", size=100)
    c = make_cluster(3, roots=[origin.path])
    with Client(c.addresses) as client:
        ids = {"ns%d" % i: client.ns_create("ns%d" % i, origin.path).id for i in range(5)}
        client.ns_create("gone", origin.path)
        client.ns_drop("gone")
    for how in ("kill", "term"):
        for peer in c.peers:  # all at once: nobody is left to ask
            getattr(peer, how)()
        for peer in c.peers:
            peer.start()
        for peer in c.peers:
            with Client(peer.address, any_peer=True) as client:
                assert client.ns_list() == sorted(ids)
                assert {name: client.ns_show(name).id for name in ids} == ids
                assert client.get("ns3", "f") == data


def test_drop_frees_memory_on_all_peers(make_cluster, origin):
    total = 0
    for i in range(12):
        total += len(origin.write("f%d" % i, size=2 * MIB + 1))
    c = make_cluster(3, roots=[origin.path])
    with Client(c.addresses) as client:
        client.ns_create("demo", origin.path)
        client.ns_create("stays", origin.path)
        keep = client.get("stays", "f0")
        empty = {name: p["ram_used_bytes"] for name, p in client.status().items()}
        for i in range(12):
            client.get("demo", "f%d" % i)
        shown = client.ns_show("demo")
        assert (shown.resident_bytes, shown.resident_blocks) == (total, 36)
        full = {name: p["ram_used_bytes"] for name, p in client.status().items()}
        assert all(full[n] >= empty[n] + MIB for n in full)
        assert client.ns_drop("demo") == total
        lib.wait_until(lambda: all(p["ram_used_bytes"] == empty[n] for n, p in client.status().items()), 5,
                       "everything is free again")
        read = c.counter("origin_read_bytes")
        assert client.get("stays", "f0") == keep and c.counter("origin_read_bytes") == read, "others keep theirs"


@pytest.mark.no_tsan
def test_made_again_it_is_another_key_space(make_cluster):
    c = make_cluster(3)
    with Client(c.addresses) as client, Client(c.addresses) as old:
        ids = set()
        for generation in range(4):
            ids.add(client.ns_create("values", kind=DERIVED, ack=ACK_RAM).id)
            for i in range(10):
                with pytest.raises(Error) as e:
                    old.get("values", "k%d" % i)  # knows the name of the last generation
                assert e.value.name == "ENOENT", e.value
                client.put("values", "k%d" % i, b"%d of %d" % (i, generation))
                assert old.get("values", "k%d" % i) == b"%d of %d" % (i, generation)
            client.ns_drop("values")
        assert len(ids) == 4


@pytest.mark.no_tsan
def test_versions_are_key_spaces(make_cluster):
    c = make_cluster(2)
    with Client(c.addresses) as client:
        for v in ("1", "2"):
            client.ns_create("tokens-" + v, kind=DERIVED, version=v)
            client.put("tokens-" + v, "k", v.encode())
        assert [client.get("tokens-" + v, "k") for v in ("1", "2")] == [b"1", b"2"]


@pytest.mark.no_tsan
def test_200_namespaces(make_cluster, origin):
    data = origin.write("f", size=10)
    c = make_cluster(3, roots=[origin.path])
    names = ["n%03d" % i for i in range(200)]
    with Client(c.addresses) as client:
        failures = []

        def make(mine):
            for name in mine:
                try:
                    client.ns_create(name, origin.path)
                except Error as e:
                    failures.append(e)

        threads = [threading.Thread(target=make, args=(names[i::8],)) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not failures
    for peer in c.peers:
        with Client(peer.address, any_peer=True) as client:
            assert client.ns_list() == names
    c.peers[0].restart()
    with Client(c.peers[0].address, any_peer=True) as client:
        assert client.ns_list() == names
        for name in names[::20]:
            assert client.get(name, "f") == data
        for name in names[::2]:
            client.ns_drop(name)
    for peer in c.peers:
        with Client(peer.address, any_peer=True) as client:
            assert client.ns_list() == names[1::2]


def test_concurrent_creates_of_one_name(make_cluster, origin):
    """Through different peers, with different settings: one wins, the others hear that it exists, and all know the same."""
    c = make_cluster(3, roots=[origin.path])
    clients = each(c)
    try:
        for round_ in range(15):
            name, outcomes = "race%d" % round_, {}
            barrier = threading.Barrier(6)

            def create(i):
                barrier.wait()
                try:
                    outcomes[i] = clients[i % 3].ns_create(name, origin.path, attr_ttl_ms=1000 + i).id
                except Error as e:
                    outcomes[i] = e.name

            threads = [threading.Thread(target=create, args=(i,)) for i in range(6)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            won = {i: o for i, o in outcomes.items() if isinstance(o, int)}
            assert len(won) == 1 and set(outcomes.values()) == {"FB_ENSEXISTS"} | set(won.values()), outcomes
            (winner, id_), = won.items()
            for client in clients:
                seen = client.ns_show(name)
                assert (seen.id, seen.attr_ttl_ms) == (id_, 1000 + winner)
    finally:
        for client in clients:
            client.close()


@pytest.mark.no_tsan
def test_creation_with_the_names_owner_away(make_cluster, origin):
    """Any name can be made while a peer is down, whoever would decide about it."""
    c = make_cluster(3, roots=[origin.path], catalog={"sync_ms": 200}, rpc={"peer_timeout_ms": 1000 * lib.SLOWNESS})
    c.peers[2].kill()
    names = ["n%d" % i for i in range(12)]
    with Client(c.addresses) as client:
        for name in names:
            client.ns_create(name, origin.path)
    c.peers[2].start()
    with Client(c.peers[2].address, any_peer=True) as back:
        lib.wait_until(lambda: back.ns_list() == sorted(names), 10, "it learns them all")
