"""The origin changes while it is cached and while it is read: every read is of one version, an error says what happened,
and after attr_ttl the new version is what is read (DESIGN 2, promises 1 and 3)."""
import os
import time

import pytest

import cluster as lib
import patterns
from fbclient import Client, Error
from readers import Readers

MIB = 1 << 20
TTL_MS = 100
SIZE = 3 * MIB + 4096 * 5
SLACK_S = 0.5 * lib.SLOWNESS  # between asking the origin and the answer's use, on a busy machine


class Watched(Readers):
    """Readers that also remember when each version was read, and the writer that they watch."""

    def __init__(self, client, judge, threads=3):
        self.written = []  # (version, when it stood complete at the origin)
        self.seen = []  # (start of the read, bytes, version)
        super().__init__(client, "demo", judge, threads, keys=["f"], on_read=self._remember)

    def _remember(self, _key, data, start):
        self.seen.append((start, len(data), patterns.version_of(data)))

    def assert_never_staler_than_ttl(self):
        """No read that began later than attr_ttl after a version stood complete may have got an older one."""
        for start, _, version in self.seen:
            newest = max((v for v, when in self.written if when + TTL_MS / 1e3 + SLACK_S < start), default=0)
            assert version is None or version >= newest, "version %s read when %d was the oldest allowed" % (version, newest)

    def wait_version(self, version):
        lib.wait_until(lambda: any(v == version for _, _, v in self.seen[-50:]), 20,
                       "version %d to be read; errors: %s" % (version, self.texts))

    def wait_past_ttl(self):
        """Until reads have begun so late that only the last version is right."""
        limit = self.written[-1][1] + TTL_MS / 1e3 + SLACK_S
        lib.wait_until(lambda: sum(start > limit for start, _, _ in self.seen[-50:]) > 3, 20, "late reads")


def serve(make_cluster, origin, size=SIZE):
    origin.write("f", patterns.make(1, size))
    c = make_cluster(3, roots=[origin.path])
    c.cli("ns", "create", "demo", "--origin", origin.path, "--attr-ttl-ms", TTL_MS)
    return c


def replace(origin, version, _size):
    origin.replace("f", patterns.make(version, SIZE))


def rewrite(origin, version, _size):
    """As `cp` does: cut to nothing, then written."""
    origin.write("f", patterns.make(version, SIZE))


def overwrite(origin, version, _size):
    """In place and bit by bit, the size stays."""
    data = patterns.make(version, SIZE)
    with open(origin.full("f"), "r+b", buffering=0) as f:
        for at in range(0, SIZE, 65536):
            f.write(data[at:at + 65536])


def keep_mtime(origin, version, _size):
    before = os.stat(origin.full("f"))
    rewrite(origin, version, _size)
    os.utime(origin.full("f"), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(origin.full("f")).st_mtime_ns == before.st_mtime_ns


def resize(origin, version, _size):
    """Another length each time: shorter and longer in turn, by one to many blocks."""
    origin.replace("f", patterns.make(version, patterns.CELL * (1 + origin.rng.randrange(2000))))


def whole(_key, data):
    return patterns.version_of(data) is not None


def one_state(_key, data):
    """A state that the file was really in: for files that are written in place, an unfinished one is a version too."""
    cells = patterns.cells_of(data)
    if -1 in cells:
        return False
    return len(set(cells)) <= 2 and all(a == b or a == b + 1 for a, b in zip(cells, cells[1:]))


@pytest.mark.parametrize("change, judge", [(replace, whole), (rewrite, one_state), (overwrite, one_state),
                                           (keep_mtime, one_state), (resize, whole)],
                         ids=["replaced", "rewritten", "overwritten", "mtime-kept", "resized"])
def test_changed_while_read(make_cluster, origin, change, judge):
    c = serve(make_cluster, origin)
    with Client(c.addresses) as direct, Client(c.peers[0].address, any_peer=True) as through, \
            Watched(direct, judge, 3) as r, Watched(through, judge, 2) as forwarded:
        r.wait_reads(5)
        forwarded.wait_reads(5)
        for version in range(2, 14):
            change(origin, version, SIZE)
            done = time.monotonic()
            for readers in (r, forwarded):
                readers.written.append((version, done))
                readers.wait_reads(1 + version % 5)
            if version in (5, 13):
                r.wait_past_ttl()
                forwarded.wait_past_ttl()
    for readers in (r, forwarded):
        assert not readers.wrong, readers.wrong
        assert set(readers.errors) <= {"FB_ECHANGED"}, readers.texts
        readers.assert_never_staler_than_ttl()
        assert len({v for _, _, v in readers.seen}) > 3, "versions changed while they read"


@pytest.mark.no_tsan
def test_large_file_replaced_across_owners(make_cluster, origin):
    """Chunks of one file lie on several peers, which look at the origin at different times."""
    size = 34 * MIB
    c = serve(make_cluster, origin, size)
    with Client(c.addresses) as client:
        owners = {client.locate("demo", "f", at)[0] for at in range(0, size, 16 * MIB)}
        with Watched(client, whole, 3) as r:
            r.wait_reads(3)
            for version in range(2, 6):
                origin.replace("f", patterns.make(version, size))
                r.written.append((version, time.monotonic()))
                r.wait_reads(4)
            r.wait_past_ttl()
        assert not r.wrong and set(r.errors) <= {"FB_ECHANGED"}, (r.wrong, r.texts)
        r.assert_never_staler_than_ttl()
        assert len(owners) > 1, "the test's key lies on one peer alone: take another name"


@pytest.mark.no_tsan
def test_truncated_and_extended_while_read(make_cluster, origin):
    """Every length that was ever set is a version; no byte is ever made up."""
    c = serve(make_cluster, origin)
    full = patterns.make(1, 6 * MIB)
    lengths = {SIZE}

    def judge(_key, data):
        return len(data) in lengths and full.startswith(data)

    with Client(c.addresses) as client, Readers(client, "demo", judge, threads=4, keys=["f"]) as r:
        r.wait_reads(5)
        for _ in range(12):
            length = origin.rng.randrange(0, len(full))
            old = os.path.getsize(origin.full("f"))
            lengths |= {length}
            if length < old:
                os.truncate(origin.full("f"), length)
            else:
                with open(origin.full("f"), "ab", buffering=0) as f:
                    f.write(full[old:length])
            r.wait_reads(5)
        lib.wait_until(lambda: client.stat("demo", "f").size == length, 10, "the last length is known")
        assert client.get("demo", "f") == full[:length]
    assert not r.wrong and set(r.errors) <= {"FB_ECHANGED"}, (r.wrong, r.texts)


@pytest.mark.no_tsan
def test_removed_and_made_again_while_read(make_cluster, origin):
    c = serve(make_cluster, origin)
    with Client(c.addresses) as client, Watched(client, whole, 4) as r:
        r.wait_reads(5)
        for version in (2, 3, 4):
            errors = r.errors["ENOENT"]
            os.unlink(origin.full("f"))
            lib.wait_until(lambda: r.errors["ENOENT"] > errors, 10, "the readers miss it")
            origin.write("f.new", patterns.make(version, SIZE))
            os.rename(origin.full("f.new"), origin.full("f"))
            r.written.append((version, time.monotonic()))
            r.wait_version(version)
    assert not r.wrong and set(r.errors) <= {"ENOENT", "FB_ECHANGED"}, (r.wrong, r.texts)
    assert any("f" in t and "ENOENT" in t for t in r.texts)
    r.assert_never_staler_than_ttl()


@pytest.mark.no_tsan
def test_permission_taken_away(make_cluster, origin):
    """Peers without root's right to read everything: EACCES reaches the reader, within attr_ttl of new files, and goes."""
    origin.write("f", patterns.make(1, SIZE))
    origin.write("d/g", patterns.make(1, SIZE))
    c = make_cluster(3, roots=[origin.path], command=lib.WITHOUT_DAC)
    c.cli("ns", "create", "demo", "--origin", origin.path, "--attr-ttl-ms", TTL_MS)
    with Client(c.addresses) as client:
        os.chmod(origin.full("f"), 0)
        os.chmod(origin.full("d"), 0)
        for key in ("f", "d/g"):
            with pytest.raises(Error) as e:
                client.get("demo", key)
            assert e.value.name == "EACCES" and key in e.value.text
        r = c.cli("get", "demo/f", check=False)
        assert r.returncode == 7 and "EACCES" in r.stderr
        os.chmod(origin.full("f"), 0o644)
        os.chmod(origin.full("d"), 0o755)

        def both():
            try:
                return all(patterns.version_of(client.get("demo", k)) == 1 for k in ("f", "d/g"))
            except Error as e:
                assert e.name == "EACCES"
                return False

        lib.wait_until(both, 3, "an error is not repeated for longer than a second")


# ---- paths that lead out ----------------------------------------------------------------------------------------------


SECRET = b"nobody may read this through the cache: " * 100


def refused(client, ns, key, *names):
    start = time.monotonic()
    with pytest.raises(Error) as e:
        client.get(ns, key)
    assert e.value.name in names, "%s: %s" % (key, e.value)
    assert time.monotonic() - start < 5 * lib.SLOWNESS
    return e.value


@pytest.mark.no_tsan
def test_no_path_leads_out_of_the_origin(make_cluster, origin, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    inside = origin.write("d/real", size=5000)
    os.symlink("/etc/hostname", origin.full("absolute"))
    os.symlink(str(outside / "secret"), origin.full("absolute-near"))
    os.symlink("../outside/secret", origin.full("relative"))
    os.symlink("../../outside/secret", origin.full("d/deep"))
    os.symlink("../outside", origin.full("dir"))
    os.symlink("/proc/self/root%s/secret" % outside, origin.full("magic"))
    os.symlink("/proc/self/root", origin.full("magicdir"))
    os.symlink("loop2", origin.full("loop1"))
    os.symlink("loop1", origin.full("loop2"))
    os.symlink("d/real", origin.full("good"))
    os.symlink("../d/real", origin.full("d/good"))
    os.symlink("nowhere", origin.full("dangling"))
    c = make_cluster(3, roots=[origin.path])
    c.cli("ns", "create", "demo", "--origin", origin.path, "--attr-ttl-ms", TTL_MS)
    with Client(c.addresses) as direct, Client(c.peers[1].address, any_peer=True) as through:
        for client in (direct, through):
            assert client.get("demo", "good") == client.get("demo", "d/good") == inside
            for key in ("absolute", "absolute-near", "relative", "d/deep", "dir/secret", "magic",
                        "magicdir%s/secret" % outside):
                e = refused(client, "demo", key, "FB_EESCAPES")
                assert key.split("/")[-1] in e.text
            for key in ("..", "../outside/secret", "d/../../outside/secret", "d/..", ".", "./d/real", "d//real", "/d/real",
                        "d/real/", str(outside / "secret")):
                refused(client, "demo", key, "FB_EKEYNAME")
            refused(client, "demo", "loop1", "ELOOP")
            refused(client, "demo", "dangling", "ENOENT")
            keys = [k for k, _, _ in client.list("demo")]
            assert sorted(keys) == ["d/good", "d/real", "good"], "what leads out, or nowhere, is not listed"
        # a directory of a file that is cached becomes a way out
        assert direct.get("demo", "d/real") == inside
        (outside / "real").write_bytes(SECRET)
        os.rename(origin.full("d"), origin.full("was"))
        os.symlink("../outside", origin.full("d"))

        def closed():
            try:
                assert direct.get("demo", "d/real") == inside
                return False
            except Error as e:
                assert e.name == "FB_EESCAPES"
                return True

        lib.wait_until(closed, 5, "the way out is seen after attr_ttl")
    r = c.cli("get", "demo/relative", check=False)
    assert r.returncode == 7 and r.raw == b"" and "FB_EESCAPES" in r.stderr


@pytest.mark.no_tsan
def test_magic_links_of_the_kernel_are_not_followed(make_cluster):
    """/proc/PID/root and its like are no text that could be judged: the kernel jumps. An origin in /proc has them."""
    c = make_cluster(1, roots=["/proc"])
    c.cli("ns", "create", "proc", "--origin", "/proc/%d" % c.peers[0].pid)
    with Client(c.addresses) as client:
        for key in ("root/etc/hostname", "cwd/anything", "exe", "fd/0"):
            refused(client, "proc", key, "FB_EESCAPES")


@pytest.mark.no_tsan
def test_only_regular_files_are_read(make_cluster, origin):
    """A fifo would wait for a writer, /dev/zero never ends."""
    os.makedirs(origin.full("d"))
    os.mkfifo(origin.full("fifo"))
    os.mknod(origin.full("zero"), 0o20666, os.makedev(1, 5))
    os.mknod(origin.full("gone"), 0o60666, os.makedev(255, 255))
    data = origin.write("file", size=1000)
    c = make_cluster(2, roots=[origin.path])
    c.cli("ns", "create", "demo", "--origin", origin.path)
    with Client(c.addresses) as client:
        for key in ("fifo", "zero", "gone"):
            assert "neither a file" in refused(client, "demo", key, "EINVAL").text
        refused(client, "demo", "d", "EISDIR")
        assert client.get("demo", "file") == data
        assert [k for k, _, _ in client.list("demo")] == ["file"]
        last, failures = client.prestage("demo")
        assert (last.files_total, last.bytes_resident, last.files_failed, failures) == (1, 1000, 0, [])


@pytest.mark.no_tsan
def test_origins_must_lie_below_the_allowed_roots(make_cluster, origin, tmp_path):
    (tmp_path / "outside").mkdir()
    os.symlink(str(tmp_path / "outside"), origin.full("link"))
    origin.write("file", size=1)
    c = make_cluster(2, roots=[origin.path])
    with Client(c.addresses) as client:
        for path, name in ((str(tmp_path / "outside"), "FB_EORIGINROOT"), (origin.path + "/..", "FB_EORIGINROOT"),
                           (origin.full("link"), "FB_EORIGINROOT"), ("/", "FB_EORIGINROOT"),
                           (origin.full("none"), "ENOENT"), (origin.full("file"), "ENOTDIR"), ("relative", "EINVAL")):
            with pytest.raises(Error) as e:
                client.ns_create("demo", path)
            assert e.value.name == name, (path, e.value)
        assert client.ns_list() == []
        client.ns_create("demo", origin.path)
        assert len(client.get("demo", "file")) == 1
