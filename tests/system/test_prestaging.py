"""Prestage: what it reports as resident is resident, what failed is said, and a stop stops."""
import os
import signal
import threading
import time

import pytest

import cluster as lib
from fbclient import Client, Error

MIB = 1 << 20
SLOW = {"threads": 1}  # one read of the origin at a time


def dataset(make_cluster, directory, files, **conf):
    """Three peers over {key: size}; and the contents."""
    contents = {key: directory.write(key, size=size) for key, size in files.items()}
    c = make_cluster(3, roots=[directory.path], **conf)
    c.cli("ns", "create", "demo", "--origin", directory.path)
    return c, contents


def slow_down(directory):
    """Makes every block's read take 20 ms for the next seconds: of files that seem to change just now, a peer awaits that
    their next change will show (server/origin/posix_read.c). So there is a run to break into."""
    soon = time.time_ns() + 9 * 10**9
    for key in directory.keys():
        os.utime(directory.full(key), ns=(soon, soon))


def read_everything(cluster, contents):
    with Client(cluster.addresses) as client:
        for key, data in contents.items():
            assert client.get("demo", key) == data, key


def active(cluster):
    return cluster.counter("prestage_active")


def test_all_of_it(make_cluster, origin):
    files = {"big": 40 * MIB + 3, "empty": 0, **{"s/%03d" % i: i * 997 for i in range(300)},
             **{"m/%d" % i: 3 * MIB + i for i in range(8)}}
    c, contents = dataset(make_cluster, origin, files)
    total = sum(files.values())
    with Client(c.addresses) as client:
        seen = []
        last, failures = client.prestage("demo", each=lambda p: seen.append((p.bytes_resident, p.listed)))
        assert (last.files_total, last.files_resident, last.files_failed, failures) == (len(files), len(files), 0, [])
        assert last.bytes_total == last.bytes_resident == last.bytes_from_origin == total
        assert last.done and last.listed and seen
        assert client.ns_show("demo").resident_bytes == total
        assert c.counter("origin_read_bytes") == total
        read_everything(c, contents)
        assert c.counter("origin_read_bytes") == total, "nothing is left to read"
        again, _ = client.prestage("demo")
        assert (again.bytes_resident, again.bytes_from_origin) == (total, 0)
    shares = [p["counters"]["tier_blocks"] for p in c.status()["peers"]]
    assert min(shares) > 0, "every owner filled its own: %s" % shares
    assert active(c) == 0 and c.counter("prestage_files_total") == 2 * len(files)


PATTERNS = [
    ("train/a*.tar", lambda k: k.startswith("train/a") and k.endswith(".tar") and k.count("/") == 1),
    ("**/0.tar", lambda k: k.endswith("/0.tar")), ("train", lambda k: k.startswith("train/")),
    ("train/deep/er", lambda k: k.startswith("train/deep/er/")), ("val/v1.tar", lambda k: k == "val/v1.tar"),
    ("*/v[0-2].tar", lambda k: k in ("val/v0.tar", "val/v1.tar", "val/v2.tar")), ("**", lambda k: True)]


@pytest.mark.no_tsan
def test_patterns(make_cluster, origin):
    files = {k: 10000 + i for i, k in enumerate(
        ["train/a%d.tar" % i for i in range(4)] + ["train/b%d.tar" % i for i in range(3)] + ["train/ax.idx", "trainer/a0.tar"] +
        ["train/deep/er/0.tar", "train/deep/0.tar", "val/0.tar"] + ["val/v%d.tar" % i for i in range(5)])}
    c, _ = dataset(make_cluster, origin, files)
    for pattern, matches in PATTERNS:
        wanted = {k: n for k, n in files.items() if matches(k)}
        assert wanted
        c.cli("invalidate", "demo")
        before = c.counter("origin_read_bytes")
        r = c.cli_json("prestage", "demo/" + pattern, "--wait")
        assert (r["files_total"], r["bytes_total"]) == (len(wanted), sum(wanted.values())), pattern
        assert (r["files_resident"], r["bytes_resident"]) == (len(wanted), sum(wanted.values())), pattern
        assert c.counter("origin_read_bytes") == before + sum(wanted.values()), "nothing else was read: %s" % pattern


@pytest.mark.no_tsan
def test_nothing_matches(make_cluster, origin):
    c, _ = dataset(make_cluster, origin, {"a": 1})
    for pattern, word in (("none", "none"), ("*.tar", "*.tar"), ("none/*", "none")):
        r = c.cli("prestage", "demo/" + pattern, "--wait", check=False)
        assert r.returncode == 3 and word in r.stderr and "ENOENT" in r.stderr, r


@pytest.mark.no_tsan
def test_memory_too_small(make_cluster, origin):
    ram = 16 * MIB
    files = {"f%02d" % i: 4 * MIB for i in range(40)}
    c, contents = dataset(make_cluster, origin, files, ram={"max_bytes": ram})
    r = c.cli("prestage", "demo", "--wait", "--json", check=False)
    assert r.returncode == 5 and "FB_EBELOWTARGET" in r.stderr, r
    told = r.json
    assert 0 < told["bytes_resident"] <= 3 * ram < told["bytes_total"] == sum(files.values())
    assert told["files_resident"] < len(files) and told["files_failed"] == 0
    shown = c.cli_json("ns", "show", "demo")
    assert told["bytes_resident"] <= shown["resident_bytes"] <= 3 * ram, "the number told is what is there"
    percent = 100 * told["bytes_resident"] / told["bytes_total"]
    assert abs(told["resident_percent"] - percent) < 0.1
    r = c.cli("prestage", "demo/f0[0-3]", "--wait", "--target", "99.9")
    assert r.returncode == 0, "what fits is resident"
    read_everything(c, contents)


@pytest.mark.no_tsan
def test_files_that_cannot_be_read_are_failures(make_cluster, origin):
    """Unreadable from the beginning: each is named, and the rest is resident."""
    files = {"good/%d" % i: MIB + i for i in range(6)}
    for i in range(3):
        origin.write("bad/%d" % i, size=2 * MIB)
        os.chmod(origin.full("bad/%d" % i), 0)
    c, contents = dataset(make_cluster, origin, files, command=lib.WITHOUT_DAC)
    with Client(c.addresses) as client:
        last, failures = client.prestage("demo")
    assert (last.files_total, last.files_resident, last.files_failed) == (9, 6, 3)
    assert last.bytes_resident == sum(files.values()) < last.bytes_total
    assert sorted(k for k, _ in failures) == ["bad/0", "bad/1", "bad/2"]
    assert all("ermission" in text for _, text in failures), failures
    r = c.cli("prestage", "demo", "--wait", "--json", check=False)
    assert r.returncode == 5 and r.json["files_failed"] == 3
    assert all("bad/%d: " % i in r.stderr for i in range(3)), r.stderr
    read_everything(c, contents)


@pytest.mark.no_tsan
def test_files_that_change_and_vanish_meanwhile(make_cluster, origin):
    """The listing is old when the fill comes: whatever is counted as resident must be, the rest is said."""
    files = {"f%03d" % i: MIB for i in range(120)}
    c, contents = dataset(make_cluster, origin, files, origin=SLOW)
    slow_down(origin)
    gone, changed = ["f%03d" % i for i in range(100, 110)], ["f%03d" % i for i in range(110, 120)]
    struck = threading.Event()

    def strike(progress):
        if not struck.is_set() and progress.files_total > 0:
            struck.set()
            for key in gone:
                os.unlink(origin.full(key))
            for key in changed:
                contents[key] = origin.replace(key, size=MIB)
        return False

    with Client(c.addresses) as client:
        last, failures = client.prestage("demo", parallel=1, each=strike)
        assert struck.is_set() and last.done
        assert last.files_resident + last.files_failed >= last.files_total - len(gone) - len(changed)
        assert last.files_resident <= last.files_total and last.bytes_resident <= last.bytes_total
        assert {k for k, _ in failures} <= set(gone) | set(changed), failures
        shown = client.ns_show("demo").resident_bytes
        assert last.bytes_resident <= shown
        for key in gone:
            del contents[key]
        lib.wait_until(lambda: client.stat("demo", changed[0]).size == MIB, 5)
        after, failures = client.prestage("demo")
        assert (after.files_total, after.files_resident, failures) == (len(contents), len(contents), [])
        for key, data in contents.items():
            assert client.get("demo", key) == data


# ---- runs that are broken into ----------------------------------------------------------------------------------------


def long_run(make_cluster, origin):
    """A hundred MiB with a slow origin, and its contents."""
    made = dataset(make_cluster, origin, {"f%03d" % i: 2 * MIB + i for i in range(64)}, origin=SLOW,
                   rpc={"peer_timeout_ms": 1000 * lib.SLOWNESS})
    slow_down(origin)
    return made


def begin(cluster, peers, *args):
    """A CLI run that is at work."""
    before = cluster.counter("prestage_bytes_done")
    p = cluster.popen("prestage", "demo", "--wait", "--json", "--parallel", 1, *args, peers=peers)
    lib.wait_until(lambda: cluster.counter("prestage_bytes_done") > before or p.poll() is not None, 20, "the run is at work")
    return p


def coordinator(cluster):
    names = [p["name"] for p in cluster.status()["peers"] if p["reachable"] and p["counters"]["prestage_active"]]
    return next((p for p in cluster.peers if p.name in names), None)


def test_ctrl_c_stops_the_work(make_cluster, origin):
    c, contents = long_run(make_cluster, origin)
    p = begin(c, c.addresses)
    assert p.poll() is None and active(c) == 1, "it is at work when the signal comes"
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=30 * lib.SLOWNESS)
    assert p.returncode == 1 and b"interrupted" in err, (p.returncode, err)
    lib.wait_until(lambda: active(c) == 0, 20, "the peers have stopped")
    read = c.counter("origin_read_bytes")
    assert read < sum(map(len, contents.values())), "there was more to read"
    r = c.cli_json("prestage", "demo", "--wait")
    assert r["bytes_from_origin"] <= sum(map(len, contents.values())) - read + 16 * MIB, "what was resident stayed"
    read_everything(c, contents)


@pytest.mark.no_tsan
def test_a_killed_client_stops_the_work(make_cluster, origin):
    c, _ = long_run(make_cluster, origin)
    p = begin(c, c.addresses)
    assert p.poll() is None and active(c) == 1
    p.kill()
    p.communicate()
    lib.wait_until(lambda: active(c) == 0, 20, "the peers have noticed")


@pytest.mark.no_tsan
def test_in_the_background_it_goes_on_by_itself(make_cluster, origin):
    c, contents = long_run(make_cluster, origin)
    r = c.cli("prestage", "demo")
    assert r.returncode == 0 and r.seconds < 20 * lib.SLOWNESS
    total = sum(map(len, contents.values()))
    lib.wait_until(lambda: active(c) == 0 and c.counter("prestage_bytes_done") == total, 60, "it runs to its end")
    assert c.cli_json("ns", "show", "demo")["resident_bytes"] == total


def test_an_owner_is_killed_meanwhile(make_cluster, origin):
    """The next owners take over: all is resident in the end, or the number and the exit status say what is not."""
    c, contents = long_run(make_cluster, origin)
    p = begin(c, c.peers[0].address)
    at_work = coordinator(c)
    victim = next(q for q in c.peers[::-1] if q is not at_work)
    assert p.poll() is None and at_work
    victim.kill()
    out, err = p.communicate(timeout=60 * lib.SLOWNESS)
    told = lib.Result(("prestage",), p.returncode, out, err, 0).json
    total = sum(map(len, contents.values()))
    survivors = ",".join(q.address for q in c.alive)
    resident = c.cli_json("ns", "show", "demo", peers=survivors)["resident_bytes"]
    assert told["done"] and told["bytes_total"] == total, told
    assert told["bytes_resident"] <= resident, "never more than there is"
    assert p.returncode == (0 if told["bytes_resident"] == total else 5), (told, err)
    again = c.cli_json("prestage", "demo", "--wait", peers=survivors)
    assert again["bytes_resident"] == total
    with Client(survivors) as client:
        for key, data in contents.items():
            assert client.get("demo", key) == data


@pytest.mark.no_tsan
def test_the_coordinator_is_killed_meanwhile(make_cluster, origin):
    """The client goes to another peer, which goes on with what is missing; or it says that it could not."""
    c, contents = long_run(make_cluster, origin)
    p = begin(c, c.addresses)
    victim = coordinator(c)
    assert p.poll() is None and victim
    victim.kill()
    out, err = p.communicate(timeout=60 * lib.SLOWNESS)
    total = sum(map(len, contents.values()))
    survivors = ",".join(q.address for q in c.alive)
    if p.returncode == 0:
        assert lib.Result(("prestage",), 0, out, err, 0).json["bytes_resident"] == total
    else:
        assert p.returncode in (4, 5) and (b"FB_EPEERDOWN" in err or b"FB_EBELOWTARGET" in err), (p.returncode, err)
    lib.wait_until(lambda: c.counter("prestage_active") == 0, 30, "no run is left over")
    assert c.cli_json("prestage", "demo", "--wait", peers=survivors)["bytes_resident"] == total


def test_sigterm_of_the_coordinator_ends_the_run(make_cluster, origin):
    c, _ = long_run(make_cluster, origin)
    c.cli("prestage", "demo")
    lib.wait_until(lambda: coordinator(c), 10, "a run is going on")
    peer = coordinator(c)
    assert peer.term() == 0, "it does not wait for the whole run"


@pytest.mark.no_tsan
def test_runs_are_bounded(make_cluster, origin):
    c, _ = dataset(make_cluster, origin, {"f%03d" % i: 2 * MIB for i in range(100)}, origin=SLOW, prestage={"runs": 1})
    slow_down(origin)
    peer = c.peers[0].address
    with Client(peer, any_peer=True, retries=1, timeout_ms=5000 * lib.SLOWNESS) as client:
        client.prestage("demo", background=True)
        assert active(c) == 1
        with pytest.raises(Error) as e:
            client.prestage("demo", background=True)
        assert e.value.name == "FB_EBUSY" and "prestage.runs" in e.value.text
