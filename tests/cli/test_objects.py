"""ls, stat, get, put, invalidate: what is printed, what a failure leaves behind, and that memory stays bounded."""

import os
import resource
import signal
import subprocess

import cluster as lib
import pytest
from conftest import BINARY

PIECE = 16 << 20
ODD = 'sp ace/qu"ote\\back\ttab\x1b[31mred\nline/\u00e9\u4e2d'


# ---- ls, stat ---------------------------------------------------------------------------------------------------


def test_ls(fake):
    fake.namespace("ds", {"a.txt": b"x" * 1536, "train/000.tar": b"y" * 10, "train/deep/1": b""})
    lines = [line.split() for line in fake.ok("ls", "ds").out.splitlines()]
    assert [line[-1] for line in lines] == ["a.txt", "train/"]
    assert lines[0][:2] == ["1.5", "KiB"] and lines[1][0] == "-"
    assert fake.ok("ls", "ds", "-q").out == "a.txt\ntrain/\n"
    assert fake.ok("ls", "ds/train/", "-q").out == fake.ok("ls", "ds/train", "-q").out == "train/000.tar\ntrain/deep/\n"
    assert fake.ok("ls", "forebay://ds/train", "-q").out == "train/000.tar\ntrain/deep/\n"
    assert fake.ok("ls", "ds", "-Rq").out == "a.txt\ntrain/000.tar\ntrain/deep/1\n"
    assert fake.ok("ls", "ds", "-Rq", "--limit", "2").out == "a.txt\ntrain/000.tar\n"
    assert fake.ok("ls", "ds/a.txt", "-q").out == "a.txt\n"  # a file by its name
    assert fake.fails(3, "ls", "ds/nope").out == ""
    assert fake.fails(3, "ls", "nope").name == "FB_ENONS"


def test_ls_json(fake):
    fake.namespace("ds", {"a.txt": b"abc", "d/b": b""})
    r = fake.ok("ls", "ds", "--json").json
    assert r["namespace"] == "ds" and r["count"] == 2 and r["bytes"] == 3
    assert r["entries"][0]["key"] == "a.txt" and r["entries"][0]["size"] == 3 and len(r["entries"][0]["etag"]) == 16
    assert r["entries"][1] == {"key": "d", "directory": True}
    assert fake.ok("ls", "ds", "--json", "--recursive").json["entries"][1]["key"] == "d/b"


def test_a_listing_that_breaks_off_is_an_error_and_still_json(fake):
    fake.namespace("ds", {"a": b"1", "b": b"22"})
    r = fake.fails(4, "ls", "ds", "--json", FAKE_FAIL="fb_list:5017")
    assert [e["key"] for e in r.json["entries"]] == ["a", "b"] and "count" not in r.json
    assert r.json["error"]["name"] == "FB_EPEERDOWN" and r.json["error"]["exit"] == 4
    assert len(fake.fails(4, "ls", "ds", FAKE_FAIL="fb_list:5017").out.splitlines()) == 2


def test_names_cannot_drive_a_terminal_nor_break_lines(fake):
    fake.namespace("ds", {ODD: b"x"})
    out = fake.ok("ls", "-qR", "ds").out
    assert out == 'sp ace/qu"ote\\back\\x09tab\\x1b[31mred\\x0aline/\u00e9\u4e2d\n'
    assert fake.ok("ls", "-R", "ds", "--json").json["entries"][0]["key"] == ODD
    assert "\x1b" not in fake.ok("stat", "ds/" + ODD).out
    r = fake.fails(3, "stat", "ds/\x1b[31m")
    assert "\x1b" not in r.err


def test_names_that_are_not_utf8(fake):
    directory = os.fsencode(fake.namespace("ds"))
    with open(directory + b"/bad\xff\xc3\x28\xed\xa0\x80\xf0\x9f\x98\x80\xc2\x9b", "wb"):
        pass
    entry = fake.ok("ls", "ds", "--json").json["entries"][0]
    assert entry["key"] == "bad\ufffd\ufffd(\ufffd\ufffd\ufffd\U0001f600\x9b"
    assert fake.ok("ls", "ds", "-q").stdout == b"bad\\xff\\xc3(\\xed\\xa0\\x80\xf0\x9f\x98\x80\\xc2\\x9b\n"


def test_stat(fake):
    path = fake.namespace("ds", {"d/a": b"abc"}) / "d" / "a"
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    r = fake.ok("stat", "ds/d/a", "--json").json
    assert (r["namespace"], r["key"], r["size"], r["directory"]) == ("ds", "d/a", 3, False)
    assert r["mtime_ns"] == 1_700_000_000_123_456_789
    assert "3 (3 B)" in fake.ok("stat", "ds/d/a").out and "2023-11-14 22:13:20" in fake.ok("stat", "ds/d/a").out
    assert fake.ok("stat", "ds/d", "--json").json["directory"] is True and "directory" in fake.ok("stat", "ds/d").out
    assert fake.fails(2, "stat", "ds/").name == "FB_EKEYEMPTY"
    assert fake.fails(2, "stat", "ds/a/../b").name == "FB_EKEYNAME"
    assert fake.fails(2, "stat", "x" * 300 + "/a").name == "FB_ENSNAME"


# ---- get --------------------------------------------------------------------------------------------------------


@pytest.fixture
def big(fake):
    data = os.urandom(1 << 20) * 40 + b"tail"
    fake.namespace("ds", {"big": data, "empty": b"", "small": b"0123456789"})
    return data


def test_get_to_stdout_and_file(fake, big):
    assert fake.ok("get", "ds/big").stdout == big
    assert fake.ok("get", "ds/big", "-o", "-").stdout == big
    r = fake.ok("get", "ds/big", "--output", "copy")
    assert r.out == "" and (fake.cwd / "copy").read_bytes() == big
    r = fake.ok("get", "ds/big", "-o", "copy", "--json").json
    assert r["bytes"] == r["size"] == r["sources"]["ram"] == len(big) and r["file"] == "copy" and r["elapsed_ns"] > 0
    assert fake.ok("get", "ds/empty").stdout == b""
    fake.ok("get", "ds/empty", "-o", "none")
    assert (fake.cwd / "none").read_bytes() == b""
    assert sorted(p.name for p in fake.cwd.iterdir()) == ["copy", "none"]


@pytest.mark.parametrize("offset,length", [(0, 0), (0, 1), (3, 4), (3, 100), (10, 5), (PIECE - 1, 2), (PIECE, PIECE),
                                           (PIECE + 5, 2 * PIECE), (41943040, 4), (41943044, 1), (7, None)])
def test_get_ranges(fake, big, offset, length):
    argv = ["--offset", offset] + ([] if length is None else ["--length", length])
    end = None if length is None else offset + length
    for key, data in (("small", b"0123456789"), ("big", big)):
        argv = [str(a) for a in argv]
        if offset <= len(data):
            assert fake.ok("get", "ds/" + key, *argv).stdout == data[offset:end]
        else:
            assert fake.fails(2, "get", "ds/" + key, *argv).name == "FB_EPASTEND"


def test_get_reads_pieces_of_one_version(fake, big):
    fake.ok("get", "ds/big", "--offset", "5")
    calls = [c.split()[3:] for c in fake.calls() if c.startswith("fb_pread_version")]
    assert calls == [["etag=0", "offset=5", "len=%d" % (PIECE - 5)], ["etag=1", "offset=%d" % PIECE, "len=%d" % PIECE],
                     ["etag=1", "offset=%d" % (2 * PIECE), "len=%d" % PIECE]]


@pytest.mark.parametrize("existing", [None, b"precious"])
@pytest.mark.parametrize("status,order", [(1, "5@2"), (1, "5012@3"), (4, "5017@1"), (4, "110@2"), (3, "2@1")])
def test_a_failed_get_leaves_nothing(fake, big, existing, status, order):
    target = fake.cwd / "out"
    if existing:
        target.write_bytes(existing)
    r = fake.fails(status, "get", "ds/big", "-o", "out", "--json", FAKE_FAIL="fb_pread_version:" + order)
    assert list(r.json) == ["error"]
    assert [p.name for p in fake.cwd.iterdir()] == (["out"] if existing else [])
    assert existing is None or target.read_bytes() == existing


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(fake, big, number):
    p = fake.popen("get", "ds/big", "-o", "out", env={"FAKE_STEP_MS": "60000"})
    lib.wait_until(lambda: any(fake.cwd.iterdir()), what="the temporary file")
    lib.wait_until(lambda: any(c.startswith("fb_pread") for c in fake.calls()), what="the first read")
    p.send_signal(number)
    assert p.wait(30) == -number
    assert list(fake.cwd.iterdir()) == []


def test_get_keeps_what_the_target_is(fake, big):
    os.symlink("real", fake.cwd / "link")
    (fake.cwd / "real").write_bytes(b"old")
    fake.ok("get", "ds/small", "-o", "link")
    assert os.readlink(fake.cwd / "link") == "real" and (fake.cwd / "real").read_bytes() == b"0123456789"
    fake.ok("get", "ds/small", "-o", "/dev/null")
    assert not os.path.isfile("/dev/null")
    assert fake.fails(7, "get", "ds/small", "-o", str(fake.cwd)).name == "EISDIR"
    assert fake.fails(3, "get", "ds/small", "-o", "no/such/dir/x").name == "ENOENT"
    assert not [c for c in fake.calls()[-1:] if c.startswith("fb_pread")]
    os.umask(0o027)
    try:
        fake.ok("get", "ds/small", "-o", "mode")
    finally:
        os.umask(0o022)
    assert (fake.cwd / "mode").stat().st_mode & 0o777 == 0o640


def test_get_to_a_full_disk(fake, big):
    assert fake.fails(7, "get", "ds/big", "-o", "/dev/full").name == "ENOSPC"

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    p = fake.popen("get", "ds/big", "-o", "out", stderr=subprocess.PIPE, preexec_fn=small_files, env={"FAKE_LOG": ""})
    _, err = p.communicate(timeout=60)
    assert p.returncode == 7 and b"EFBIG" in err and list(fake.cwd.iterdir()) == []


def test_get_into_a_closed_pipe(fake, big):
    p = fake.popen("get", "ds/big", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.read(1000) == big[:1000]
    p.stdout.close()
    err = p.stderr.read()
    assert p.wait(30) == -signal.SIGPIPE and err == b""
    p.stderr.close()


@pytest.mark.release_only
def test_get_of_a_large_file_needs_little_memory(fake):
    with open(fake.namespace("ds") / "huge", "wb") as f:
        f.truncate(2 << 30)
    p = subprocess.run(["/usr/bin/python3", "-c", "import resource,subprocess,sys\n"
                        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
                        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)", BINARY, "get", "ds/huge"],
                       env=fake.env({}), capture_output=True, check=True)
    assert int(p.stdout) < 64 << 10  # KiB


# ---- put, invalidate --------------------------------------------------------------------------------------------


def test_put(fake):
    directory = fake.namespace("derived")
    (fake.cwd / "f").write_bytes(b"value")
    r = fake.ok("put", "derived/k", "f", "--json").json
    assert (r["namespace"], r["key"], r["size"]) == ("derived", "k", 5) and (directory / "k").read_bytes() == b"value"
    assert "5 B" in fake.ok("put", "derived/l", "-", input=b"other").out and (directory / "l").read_bytes() == b"other"
    data = os.urandom(3_000_001)
    fake.ok("put", "derived/long", "-", "-q", input=data)
    assert (directory / "long").read_bytes() == data
    fake.ok("put", "derived/nothing", "/dev/null")
    assert (directory / "nothing").read_bytes() == b""
    assert fake.fails(7, "put", "derived/k", "f").name == "EEXIST"
    fake.ok("put", "derived/k", "-", "--overwrite", input=b"new")
    assert (directory / "k").read_bytes() == b"new"


def test_put_failures(fake):
    fake.namespace("derived")
    fake.namespace("ds")
    assert fake.fails(3, "put", "derived/k", "missing").name == "ENOENT"
    assert fake.fails(7, "put", "derived/k", str(fake.cwd)).name == "EISDIR"
    assert fake.calls() == []  # the file is read before anyone is bothered
    assert fake.fails(7, "put", "ds/k", "/dev/null").name == "FB_ENOTDERIVED"
    assert fake.fails(7, "put", "derived/k", "/dev/null", FAKE_FAIL="fb_put:28").name == "ENOSPC"
    with open(fake.cwd / "huge", "wb") as f:
        f.truncate((1 << 30) + 1)
    before = len(fake.calls())
    r = fake.fails(7, "put", "derived/k", "huge")
    assert r.name == "FB_ETOOBIG" and "1073741824" in r.text and len(fake.calls()) == before


def test_invalidate(fake):
    fake.namespace("ds")
    assert fake.ok("invalidate", "ds/train/**").out == "forgot 7 blocks, 7.0 MiB\n"
    assert fake.calls()[-1] == "fb_invalidate ds 'train/**'"
    assert fake.ok("invalidate", "ds", "--json").json == {"namespace": "ds", "pattern": "", "blocks": 7, "bytes": 7 << 20}
    assert fake.ok("invalidate", "ds", "-q").out == ""
    assert fake.fails(4, "invalidate", "ds", FAKE_FAIL="fb_invalidate:5017").name == "FB_EPEERDOWN"
