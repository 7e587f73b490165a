"""System calls on the origin that fail, return nothing, or take long: the error reaches the reader as it is, is counted,
is forgotten within a second, and no byte is ever made up."""
import os
import threading
import time

import pytest

import cluster as lib
import strace
from fbclient import ACK_ORIGIN, DERIVED, Client, Error
from readers import Readers
from strace import Injected

MIB = 1 << 20

pytestmark = [pytest.mark.release_only,
              pytest.mark.skipif(bool(strace.available()), reason="strace: %s" % strace.available())]


ONE_THREAD = {"threads": 1}  # strace counts `when` for every thread by itself


def one_peer(make_cluster, directory, files=("f",), size=3 * MIB + 5, **conf):
    contents = {key: directory.write(key, size=size) for key in files}
    c = make_cluster(1, roots=[directory.path], **conf)
    c.cli("ns", "create", "demo", "--origin", directory.path, "--attr-ttl-ms", 100)
    return c, c.peers[0], contents


def fails(call, *names):
    with pytest.raises(Error) as e:
        call()
    assert e.value.name in names, e.value
    return e.value


def test_a_read_error_is_passed_on_and_passes(make_cluster, origin):
    c, peer, contents = one_peer(make_cluster, origin)
    with Client(c.addresses) as client:
        with Injected(peer, "pread64:error=EIO", origin.full("f")) as fault:
            for _ in range(3):
                e = fails(lambda: client.get("demo", "f"), "EIO")
                assert '"f"' in e.text and "nput/output" in e.text
            r = c.cli("get", "demo/f", check=False)
            assert r.returncode == 1 and "EIO" in r.stderr and r.raw == b""
            assert fault.count("pread64") > 0
            counters = client.status()["a"]["counters"]
            assert counters["origin_errors"] > 0 and counters["get_errors"] > 0 and counters["tier_blocks"] == 0
        start = time.monotonic()
        lib.wait_until(lambda: c.cli("get", "demo/f", "-o", "/dev/null", check=False).returncode == 0, 5, "it is read again")
        assert time.monotonic() - start < 2 + lib.SLOWNESS, "an error is not repeated for longer than a second"
        assert client.get("demo", "f") == contents["f"]


def test_the_error_of_one_block_is_that_blocks_alone(make_cluster, origin):
    c, peer, contents = one_peer(make_cluster, origin, origin=ONE_THREAD)
    with Client(c.addresses, retries=1) as client:
        with Injected(peer, "pread64:error=EIO:when=1", origin.full("f")) as fault:
            fails(lambda: client.pread("demo", "f", 100, 2 * MIB), "EIO")
            assert fault.count() == 1
            assert client.pread("demo", "f", 100, MIB) == contents["f"][MIB:MIB + 100]
            assert client.get("demo", "f") == contents["f"], "the error is not remembered with the block"
            assert fault.count() == 1


@pytest.mark.parametrize("what", ["pread64:error=EINTR:when=1+2", "pread64:error=ESTALE:when=1"])
def test_errors_that_a_reader_need_not_know(make_cluster, origin, what):
    """Interrupted calls are made again; a descriptor that a network file system calls stale is opened anew."""
    c, peer, contents = one_peer(make_cluster, origin, origin=ONE_THREAD)
    with Client(c.addresses) as client:
        client.pread("demo", "f", 1)  # opens it, and the descriptor is kept
        with Injected(peer, what, origin.full("f")) as fault:
            assert client.get("demo", "f") == contents["f"]
            assert fault.count("pread64") > 0
        assert client.status()["a"]["counters"]["get_errors"] == 0


@pytest.mark.parametrize("when", ["1+1", "2+1"])
def test_short_reads_are_never_padded(make_cluster, origin, when):
    """A file that ends before its size says: an error, and nothing of the sort in the cache."""
    c, peer, contents = one_peer(make_cluster, origin, origin=ONE_THREAD)
    with Client(c.addresses) as client:
        with Injected(peer, "pread64:retval=0:when=" + when, origin.full("f")) as fault:
            fails(lambda: client.get("demo", "f"), "FB_ESHORT", "FB_ECHANGED")
            assert fault.count("pread64") > 0
            last, failures = client.prestage("demo")
            assert last.bytes_resident < last.bytes_total and last.files_failed == 1
            assert [k for k, _ in failures] == ["f"]
        assert client.get("demo", "f") == contents["f"]
        assert client.prestage("demo")[0].bytes_resident == len(contents["f"])


@pytest.mark.parametrize("error", ["EACCES", "EMFILE", "ESTALE", "EIO"])
def test_opening_fails(make_cluster, origin, error):
    """openat2 decides about everything: what it says is what the reader hears, for a second at most."""
    c, peer, contents = one_peer(make_cluster, origin)
    with Client(c.addresses) as client:
        with Injected(peer, "openat2:error=" + error) as fault:
            fails(lambda: client.stat("demo", "f"), error)
            fails(lambda: client.get("demo", "f"), error)
            fails(lambda: client.list("demo"), error)
            assert fault.count("openat2") > 0

        def reads():
            try:
                return client.get("demo", "f") == contents["f"]
            except Error as e:
                assert e.name == error
                return False

        lib.wait_until(reads, 4, "it is opened again")
    assert peer.running


def test_an_error_is_repeated_for_a_second_at_most_and_asked_for_once(make_cluster, origin):
    c, peer, _ = one_peer(make_cluster, origin)
    with Client(c.addresses) as client:
        with Injected(peer, "openat2:error=EIO") as fault:
            start = time.monotonic()
            fails(lambda: client.stat("demo", "f"), "EIO")
            asked = fault.count("openat2")
            for _ in range(50):
                fails(lambda: client.stat("demo", "f"), "EIO")
            if time.monotonic() - start < 0.8:
                assert fault.count("openat2") == asked, "an origin in trouble is not asked at every read"
            lib.wait_until(lambda: fails(lambda: client.stat("demo", "f"), "EIO") and fault.count("openat2") > asked, 5,
                           "it is asked again")


def test_a_kernel_without_openat2(make_cluster, origin):
    """Or a seccomp filter that does not know it: without it nothing keeps paths inside, so nothing is served."""
    origin.write("f", size=10)
    c = make_cluster(1, roots=[origin.path])
    with Client(c.addresses) as client:
        with Injected(c.peers[0], "openat2:error=ENOSYS") as fault:
            e = fails(lambda: client.ns_create("demo", origin.path), "ENOSYS")
            assert "openat2" in e.text and "5.6" in e.text
            assert fault.count("openat2") > 0
        client.ns_create("demo", origin.path)
        assert len(client.get("demo", "f")) == 10


def test_a_listing_that_breaks_off_is_an_error(make_cluster, origin):
    """Half a listing must never look like all: a prestage would call half a dataset ready."""
    c, peer, _ = one_peer(make_cluster, origin, files=["d/f%d" % i for i in range(20)], size=1000)
    with Client(c.addresses) as client:
        with Injected(peer, "getdents64:error=EIO") as fault:
            fails(lambda: client.list("demo", "d"), "EIO")
            r = c.cli("ls", "demo", "-R", check=False)
            assert r.returncode == 1 and "EIO" in r.stderr
            r = c.cli("prestage", "demo", "--wait", check=False)
            assert r.returncode == 1 and "EIO" in r.stderr, r
            r = c.cli("verify", "demo", check=False)
            assert r.returncode == 1 and "EIO" in r.stderr, r
            assert fault.count("getdents64") > 0
        assert len(client.list("demo", "d")) == 20


# ---- slow origins -------------------------------------------------------------------------------------------------------


def test_a_slow_origin_is_read_once_and_hurts_no_resident_key(make_cluster, origin):
    c, peer, contents = one_peer(make_cluster, origin, files=["slow", "hot"], size=2 * MIB, origin={"threads": 2})
    delay_s = 1.5
    with Client(c.addresses) as client:
        assert client.get("demo", "hot") == contents["hot"]
        with Injected(peer, "pread64:delay_enter=%d" % (delay_s * 1e6), origin.full("slow")) as fault:
            results = []
            start = time.monotonic()
            threads = [threading.Thread(target=lambda: results.append(client.get("demo", "slow"))) for _ in range(16)]
            for t in threads:
                t.start()
            lib.wait_until(lambda: client.status()["a"]["counters"]["fill_joined"] >= 15, 5, "they wait for one fetch")
            reads = 0
            while not results and time.monotonic() - start < delay_s:
                assert client.pread("demo", "hot", 4096, 4096 * reads % MIB) is not None
                reads += 1
            assert reads > 20, "resident keys are served meanwhile"
            for t in threads:
                t.join()
            assert fault.count("pread64") > 0 and time.monotonic() - start > delay_s
        assert results == [contents["slow"]] * 16
        assert client.status()["a"]["counters"]["origin_read_bytes"] == 4 * MIB


def test_deadlines_hold_while_the_origin_hangs(make_cluster, origin):
    c, peer, contents = one_peer(make_cluster, origin, size=1000)
    with Client(c.addresses, timeout_ms=700, peer_timeout_ms=300, retries=1) as hasty, Client(c.addresses) as patient:
        with Injected(peer, "pread64:delay_enter=3000000", origin.full("f")) as fault:
            start = time.monotonic()
            fails(lambda: hasty.get("demo", "f"), "ETIMEDOUT")
            assert time.monotonic() - start < 2.5, "the deadline is kept although the origin is not"
            assert patient.get("demo", "f") == contents["f"], "and who has time gets it"
            assert time.monotonic() - start > 1.5 and fault.count("pread64") >= 1
        assert hasty.get("demo", "f") == contents["f"]


def test_a_full_queue_says_busy(make_cluster, origin):
    files = ["f%02d" % i for i in range(40)]
    c, peer, contents = one_peer(make_cluster, origin, files=files, size=1000, origin={"threads": 1, "queue": 4})
    with Client(c.addresses, timeout_ms=3000, retries=1) as client:
        for key in files:
            client.stat("demo", key)
        with Injected(peer, "pread64:delay_enter=200000") as fault:
            got = client.multi_get("demo", [(key, 0, 1000) for key in files])
            assert fault.count("pread64") > 0
        assert client.status()["a"]["counters"]["fill_refused"] > 0
        for key, data in zip(files, got):
            assert data == contents[key] or (isinstance(data, Error) and data.name in ("FB_EBUSY", "ETIMEDOUT")), (key, data)

        def all_read():
            return client.multi_get("demo", [(key, 0, 1000) for key in files]) == [contents[k] for k in files]

        lib.wait_until(all_read, 10, "later all is well")


def test_sigterm_while_the_origin_hangs(make_cluster, origin):
    """A shared file system that does not answer must not keep a peer from being stopped."""
    c, peer, _ = one_peer(make_cluster, origin, size=1000, shutdown={"drain_ms": 500})
    with Client(c.addresses, timeout_ms=20000, retries=1) as client:
        with Injected(peer, "pread64:delay_enter=6000000", origin.full("f")) as fault:
            outcome = []

            def read():
                try:
                    outcome.append(client.get("demo", "f"))
                except Error as e:
                    outcome.append(e.name)

            t = threading.Thread(target=read)
            t.start()
            lib.wait_until(lambda: client.status()["a"]["counters"]["fills_in_flight"] > 0, 5, "the read hangs")
            start = time.monotonic()
            peer.signal(15)
            assert peer.wait() == 0
            assert time.monotonic() - start < 15
            t.join()
        assert outcome and outcome[0] in ("FB_EPEERDOWN", "ETIMEDOUT", "ECANCELED"), outcome
    assert fault.what


# ---- writing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what, error", [
    ("writev:error=ENOSPC", "ENOSPC"), ("writev:error=EDQUOT", "EDQUOT"), ("writev:error=EIO:when=2", "EIO"),
    ("fsync:error=EIO", "EIO"), ("renameat,renameat2:error=EIO", "EIO"), ("renameat,renameat2:error=EROFS", "EROFS")])
def test_a_put_that_fails_is_not_acknowledged_and_leaves_nothing(make_cluster, origin, what, error):
    c = make_cluster(1, roots=[origin.path])
    peer = c.peers[0]
    with Client(c.addresses) as client:
        client.ns_create("values", origin.path, kind=DERIVED, ack=ACK_ORIGIN, attr_ttl_ms=50)
        old, new = os.urandom(MIB), os.urandom(90 * 65536)
        client.put("values", "old", old)
        with Injected(peer, what) as fault:
            for key, overwrite in (("old", True), ("new", False)):
                if "when=" in what and fault.count():
                    break
                e = fails(lambda k=key, o=overwrite: client.put("values", k, new, overwrite=o), error)
                assert key in e.text
            assert fault.count() > 0
        assert client.get("values", "old") == old
        assert origin.keys() == ["old"], "no temporary file, and nothing new"
        fails(lambda: client.get("values", "new"), "ENOENT")
        counters = client.status()["a"]["counters"]
        assert counters["put_errors"] > 0 and counters["put_bytes"] == MIB
        lib.wait_until(lambda: client.put("values", "new", new, overwrite=True), 3)
        assert client.get("values", "new") == new


def test_a_catalog_that_cannot_be_saved(make_cluster, origin):
    """A namespace that would be forgotten at the next restart was not made."""
    c, peer, _ = one_peer(make_cluster, origin)
    with Client(c.addresses) as client:
        for what in ("fsync:error=EIO", "rename:error=ENOSPC"):
            with Injected(peer, what) as fault:
                fails(lambda: client.ns_create("other", origin.path), "EIO", "ENOSPC")
                assert fault.count() > 0
        before = client.ns_list()
    peer.kill()
    peer.start()
    with Client(c.addresses) as client:
        assert client.ns_list() == before, "what was told before the restart holds after it"
        if "other" not in before:
            client.ns_create("other", origin.path)
        assert len(client.get("other", "f")) > 0


# ---- one of three peers -----------------------------------------------------------------------------------------------


def test_the_origin_fails_at_one_peer_of_three(make_cluster, origin):
    """Its share fails with the origin's error as long as that lasts, the others' does not, and then all is well."""
    contents = {"f%02d" % i: origin.write("f%02d" % i, size=100000) for i in range(30)}
    c = make_cluster(3, roots=[origin.path])
    c.cli("ns", "create", "demo", "--origin", origin.path)
    victim = c.peers[1]
    with Client(c.addresses) as client:
        share = [k for k in contents if client.locate("demo", k)[0] == victim.name]
        others = [k for k in contents if k not in share]
        assert share and others
        with Injected(victim, "pread64:error=EIO") as fault:
            with Readers(client, "demo", contents, threads=3) as r:
                r.wait_reads(2 * len(others))
                lib.wait_until(lambda: r.errors["EIO"] > 5, 20, "the victim's share fails")
            assert not r.wrong and set(r.errors) == {"EIO"}, (r.wrong, r.texts)
            assert all(any(t.startswith(k) for k in share) for t in r.texts), "others' keys do not fail: %s" % r.texts
            assert fault.count("pread64") > 0

        def all_read():
            try:
                return all(client.get("demo", k) == d for k, d in contents.items())
            except Error as e:
                assert e.name == "EIO"
                return False

        lib.wait_until(all_read, 5, "all is well again")
