"""verify: what is a difference, what is only a change, and what cannot be compared."""

import os
import shutil
import signal
import subprocess
import threading

import cluster as lib
import pytest

PIECE = 4 << 20


@pytest.fixture
def two(fake):
    """A namespace whose origin and cache are two directories; call it to make them equal again. -> (cache, origin)"""

    class Two:
        cache = fake.namespace("ds", {"a": b"a" * 1000, "b/c": os.urandom(2 * PIECE + 17), "b/empty": b"",
                                      "b/x.tar": b"t" * 5000, "piece": os.urandom(PIECE)})
        origin = fake.cwd.parent / "origin" / "ds"

        def run(self, status, *argv, **env):
            argv = argv or ("ds",)
            env["FAKE_ORIGIN"] = self.origin.parent
            r = fake("verify", *argv, "--json", **env)
            assert r.returncode == status, r
            return r

    shutil.copytree(Two.cache, Two.origin)
    return Two()


def same_times(cache, origin):
    """Same version, as far as attributes tell."""
    st = origin.stat()
    os.utime(cache, ns=(st.st_atime_ns, st.st_mtime_ns))


def test_all_the_same(two, fake):
    j = two.run(0).json
    assert (j["files"], j["same"], j["differ"], j["changed"], j["vanished"], j["failed"]) == (5, 5, 0, 0, 0, 0)
    assert j["bytes"] == j["sources"]["ram"] == 1000 + 2 * PIECE + 17 + 5000 + PIECE and j["problems"] == []
    r = fake.ok("verify", "ds", FAKE_ORIGIN=two.origin.parent)
    assert r.out.startswith("5 files: 5 same (12.0 MiB") and "100%" in r.err
    assert fake.ok("verify", "ds", "-q", FAKE_ORIGIN=two.origin.parent).err == ""


@pytest.mark.parametrize("what,files", [("ds/b", 3), ("ds/b/", 3), ("ds/b/*.tar", 1), ("ds/**", 5), ("ds/*", 2),
                                        ("ds/b/c", 1), ("ds/b/[cx]*", 2), ("ds/?", 1), ("ds/", 5), ("forebay://ds/a", 1)])
def test_parts(two, what, files):
    assert two.run(0, what).json["same"] == files


@pytest.mark.parametrize("what", ["ds/nope", "ds/nope*", "nope", "nope/x"])
def test_parts_that_are_not_there(two, what):
    assert two.run(3, what).json["error"]["exit"] == 3


@pytest.mark.parametrize("key,offset", [("a", 0), ("a", 999), ("b/c", PIECE - 1), ("b/c", PIECE), ("b/c", 2 * PIECE + 16),
                                        ("piece", 4096), ("piece", 4095)])
def test_one_wrong_byte(two, fake, key, offset):
    path = two.cache / key
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    same_times(path, two.origin / key)
    j = two.run(6).json
    assert j["differ"] == 1 and j["same"] == 4 and j["error"]["name"] == "FB_EDIFFERS"
    assert j["problems"] == [{"key": key, "outcome": "differs", "offset": offset,
                              "text": "differs from its origin at offset %d" % offset}]
    r = fake.fails(6, "verify", "ds", FAKE_ORIGIN=two.origin.parent)
    assert "differs   %s: differs from its origin at offset %d\n" % (key, offset) in r.out


@pytest.mark.parametrize("key,size", [("a", 999), ("a", 1001), ("b/c", PIECE), ("b/empty", 1), ("piece", PIECE + 1)])
def test_another_length(two, key, size):
    """The origin's file is seconds old here, so the cache may still be within its right: changed, not differs."""
    path = two.cache / key
    data = path.read_bytes()
    path.write_bytes((data + b"+" * size)[:size])
    j = two.run(0).json
    assert (j["changed"], j["differ"]) == (1, 0) and j["problems"][0]["key"] == key


def test_an_old_version_long_after_the_change_differs(two, fake):
    path = two.cache / "a"
    path.write_bytes(b"b" * 1000)
    os.utime(path, ns=(0, 10**9))
    lib.wait_until(lambda: fake("verify", "ds/a", "--json", FAKE_ORIGIN=two.origin.parent).returncode == 6, 10,
                   "the change is longer ago than attr_ttl_ms and the margin")
    j = two.run(6, "ds/a").json
    assert j["problems"][0]["text"].endswith("the cache serves an older version") and j["problems"][0]["offset"] == 0


def test_files_that_vanished(two):
    os.unlink(two.origin / "a")
    shutil.rmtree(two.origin / "b")
    j = two.run(0).json
    assert (j["vanished"], j["same"], j["differ"], j["failed"]) == (4, 1, 0, 0)
    assert {p["outcome"] for p in j["problems"]} == {"vanished"}


def test_a_file_that_is_rewritten_meanwhile(two, fake):
    """The bytes differ, but the origin's file does not hold still: that is no difference."""
    stop = threading.Event()
    path = two.origin / "b" / "c"

    def rewrite():
        n = 0
        while not stop.is_set():
            n += 1
            with open(path, "r+b") as f:
                f.write(b"%d" % n)

    t = threading.Thread(target=rewrite)
    t.start()
    try:
        j = two.run(0, FAKE_STEP_MS=50).json
    finally:
        stop.set()
        t.join()
    assert (j["changed"], j["differ"], j["same"]) == (1, 0, 4)
    assert j["problems"][0]["key"] == "b/c" and j["problems"][0]["outcome"] == "changed"


def test_a_version_that_changes_in_the_cache(two):
    j = two.run(0, "ds/b/c", FAKE_FAIL="fb_pread_version:5012@2").json
    assert j["changed"] == 1 and j["differ"] == j["failed"] == 0


def test_reads_that_fail(two, fake):
    j = two.run(1, FAKE_FAIL="fb_pread_version:5@3").json
    assert j["failed"] >= 1 and j["problems"][0]["name"] == "EIO" and j["error"]["name"] == "EIO"
    assert "could not be compared" in j["error"]["text"]
    os.unlink(two.origin / "a")
    (two.origin / "a").mkdir()
    assert two.run(2, "ds/a").json["problems"][0]["text"] == "is not a regular file at the origin"
    os.rmdir(two.origin / "a")
    os.mkfifo(two.origin / "a")
    assert two.run(2, "ds/a").json["failed"] == 1  # and does not wait for a writer


def test_missing_in_the_cache_is_not_vanished(two):
    j = two.run(3, "ds/a", FAKE_FAIL="fb_pread_version:2").json
    assert j["failed"] == 1 and j["vanished"] == 0


def test_gives_up_when_no_peer_answers(two, fake):
    for i in range(100):
        (two.cache / ("f%d" % i)).write_bytes(b"x")
        (two.origin / ("f%d" % i)).write_bytes(b"x")
    j = two.run(4, FAKE_FAIL="fb_pread_version:5017").json
    assert 16 <= j["failed"] < 60 and "gave up" in j["error"]["text"] and j["error"]["name"] == "FB_EPEERDOWN"


def test_a_listing_that_breaks_off(two):
    j = two.run(4, FAKE_FAIL="fb_list:110").json
    assert j["same"] == 5 and j["error"]["name"] == "ETIMEDOUT"


def test_origin_that_is_not_mounted_here(fake):
    fake.namespace("ds", {"a": b"x"})
    r = fake.fails(3, "verify", "ds", FAKE_ORIGIN="/nowhere")
    assert "/nowhere/ds" in r.text and "mounted" in r.text


def test_thousands_of_files(fake):
    fake.namespace("ds", {"d%d/f%d" % (i % 7, i): b"%d" % i for i in range(5000)})
    j = fake.ok("verify", "ds", "--json", "--parallel", "16").json
    assert j["same"] == 5000 and j["bytes"] == sum(len(b"%d" % i) for i in range(5000))
    (fake.root / "other").mkdir()
    r = fake("verify", "ds", "--json", FAKE_ORIGIN=fake.root / "other")
    assert r.returncode == 3  # no such origin
    (fake.root / "other" / "ds").mkdir()
    j = fake.ok("verify", "ds", "--json", FAKE_ORIGIN=fake.root / "other").json
    assert j["vanished"] == 5000 and len(j["problems"]) == 1000 and j["problems_omitted"] == 4000


def test_interrupt_ends_it(two, fake):
    p = fake.popen("verify", "ds", env={"FAKE_STEP_MS": "60000", "FAKE_ORIGIN": str(two.origin.parent)},
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lib.wait_until(lambda: any(c.startswith("fb_pread") for c in fake.calls()), what="the first read")
    p.send_signal(signal.SIGINT)
    assert p.wait(30) == -signal.SIGINT
