"""deploy/quickstart.sh as a newcomer meets it: a directory of their own, the JSON, Ctrl-C, --keep, bad arguments."""

import json
import os
import re
import signal
import subprocess

import cluster as lib
import pytest

QUICKSTART = os.path.join(lib.REPO, "deploy", "quickstart.sh")
pytestmark = [pytest.mark.release_only, pytest.mark.slow, pytest.mark.limit(300)]


@pytest.fixture
def place(tmp_path):
    """Where the quickstart may leave temporary files, and what of it runs."""
    folder = tmp_path / "temporary"
    folder.mkdir()

    class Place:
        path = str(folder)

        def start(self, *args):
            return subprocess.Popen([QUICKSTART, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True, env=dict(os.environ, TMPDIR=self.path))

        def run(self, *args):
            p = self.start(*args)
            out, _ = p.communicate(timeout=240)
            return p.returncode, out

        def processes(self):
            found = []
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    with open("/proc/%s/cmdline" % pid, "rb") as f:
                        line = f.read().replace(b"\0", b" ").decode("utf-8", "replace")
                except OSError:
                    continue
                if self.path in line:
                    found.append(line)
            return found

        def nothing_left(self):
            return os.listdir(self.path) == [] and self.processes() == []

    place = Place()
    yield place
    for folder, _, names in os.walk(place.path):
        if "stop" in names:
            subprocess.run([os.path.join(folder, "stop")], check=False)


@pytest.fixture
def dataset(origin):
    for i in range(100):
        origin.write("small/%02d/%03d.txt" % (i % 7, i), size=1 + i * 97)
    origin.write("large.tar", size=(20 << 20) + 5)
    origin.write("a name with spaces and ünicode", size=300)
    origin.write("empty", b"")
    return origin


def test_a_directory_of_ones_own(place, dataset, tmp_path):
    report = tmp_path / "report.json"
    status, out = place.run(dataset.path, "--json", str(report))
    assert status == 0, out
    r = json.loads(report.read_text())
    size = sum(len(dataset.read(k)) for k in dataset.keys())
    assert r["ok"] is True and r["peers"] == 3
    assert r["dataset_bytes"] == size and r["files"] == 103
    assert r["read_bytes_verified"] == 2 * size and r["failed_reads"] == 0
    assert r["after_kill"]["read_bytes_verified"] == size and r["after_kill"]["failed_reads"] == 0
    assert r["after_kill"]["during"]["read_bytes_verified"] == size
    assert all(r["rates"][k] > 0 for k in ("prestage_gb_per_s", "cp_gb_per_s", "ram_gb_per_s", "peer_gb_per_s",
                                          "origin_gb_per_s"))
    assert sum(r["ring"]["slots"].values()) == 65536 and r["ring"]["max_over_mean"] <= 1.10
    assert "all is well" in out and place.nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_leaves_nothing(place, dataset, number):
    p = place.start(dataset.path)
    try:
        for line in p.stdout:
            if line.startswith("three peers"):
                break
        else:
            pytest.fail("ended before its peers were up")
        assert any("forebayd" in line for line in place.processes())
        p.send_signal(number)
        p.stdout.read()
        assert p.wait(60) == 128 + number
        assert place.nothing_left()
    finally:
        if p.poll() is None:
            p.kill()
            p.wait()


def test_kept_and_run_again(place, dataset):
    status, out = place.run(dataset.path, "--keep")
    assert status == 0, out
    peers = re.search(r"FOREBAY_PEERS=(\S+)", out).group(1)
    stop = re.search(r"^  (\S+/stop)$", out, re.M).group(1)
    forebay = [os.path.join(lib.REPO, "build", "forebay"), "--peers", peers]
    r = subprocess.run([*forebay, "status", "--json"], capture_output=True, check=True)
    assert [p["reachable"] for p in json.loads(r.stdout)["peers"]] == [True] * 3
    status, again = place.run(dataset.path)
    assert status == 0, again
    r = subprocess.run([*forebay, "get", "demo/large.tar"], capture_output=True, check=True)
    assert r.stdout == dataset.read("large.tar")
    subprocess.run([stop], check=True)
    lib.wait_until(place.nothing_left, 30, "the kept cluster to be gone")


@pytest.mark.parametrize("args, word", [(["--nonsense"], "no such option"), (["/no/such/folder"], "not a directory"),
                                        (["--json"], "--json wants")])
def test_bad_arguments(place, args, word):
    status, out = place.run(*args)
    assert status == 2 and word in out and place.nothing_left()


def test_a_directory_without_bytes(place, tmp_path):
    (tmp_path / "hollow").mkdir()
    status, out = place.run(str(tmp_path / "hollow"))
    assert status == 1 and "holds no files" in out and place.nothing_left()
