"""readers.py - readers that go on while a test breaks things around them, and judge every byte they get.

    with Readers(client, "demo", contents, threads=4) as r:    # contents: {key: bytes}, or a function (key, bytes) -> bool
        r.wait_reads(50)                                        # they are at work
        cluster.peers[1].kill()
        r.wait_reads(200)                                       # 200 more since
    assert r.errors == {} and r.wrong == []                     # nobody noticed

run_processes() starts whole processes of readers, with a client each, that all begin at the same moment.
"""

import collections
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cluster as lib  # noqa: E402
import fbclient  # noqa: E402

KEPT_MAX = 20


class Readers:
    """Threads that read whole objects in a loop, in an order of their own each."""

    def __init__(self, client, ns, contents, threads=4, keys=None, seed=1, on_read=None):
        self.client, self.ns, self.contents = client, ns, contents
        self.keys = sorted(keys if keys is not None else contents)
        self.on_read = on_read  # on_read(key, bytes, monotonic start), for tests that watch versions
        self.reads, self.errors, self.texts, self.wrong, self.slowest_s = 0, collections.Counter(), [], [], 0.0
        self._mutex, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(random.Random(seed * 1000 + i),), daemon=True)
                         for i in range(threads)]

    def _judge(self, key, data, start):
        if self.on_read:
            self.on_read(key, data, start)
        good = self.contents(key, data) if callable(self.contents) else data == self.contents[key]
        if not good:
            self.wrong.append("%s: %d bytes, sha256 %s" % (key, len(data), hashlib.sha256(data).hexdigest()))

    def _run(self, rng):
        while not self._stop.is_set():
            for key in rng.sample(self.keys, len(self.keys)):
                if self._stop.is_set():
                    return
                start = time.monotonic()
                try:
                    data = self.client.get(self.ns, key)
                except fbclient.Error as e:
                    data = None
                    with self._mutex:
                        self.errors[e.name] += 1
                        if len(self.texts) < KEPT_MAX:
                            self.texts.append("%s: %s" % (key, e))
                with self._mutex:
                    self.slowest_s = max(self.slowest_s, time.monotonic() - start)
                    if data is not None:
                        self.reads += 1
                        self._judge(key, data, start)

    def __enter__(self):
        for t in self._threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._stop.set()
        for t in self._threads:
            t.join(60 * lib.SLOWNESS)
            assert not t.is_alive(), "a reader hangs in a call"

    def wait_reads(self, n, timeout_s=30):
        """Waits for n more successful reads."""
        target = self.reads + n
        lib.wait_until(lambda: self.reads >= target, timeout_s, "%d more reads; errors: %s" % (n, self.texts))

    def assert_flawless(self):
        assert not self.wrong, self.wrong[:KEPT_MAX]
        assert not self.errors, self.texts


# ---- processes --------------------------------------------------------------------------------------------------------


def run_processes(peers, ns, keys, processes=2, threads=4, **options):
    """Every thread of every process reads every key once, all starting together. `peers`: one list per process, in turn.
    Returns one {"key": sha256 or error name} per thread."""
    running = []
    for i in range(processes):
        task = {"peers": peers[i % len(peers)], "ns": ns, "keys": keys, "threads": threads, "options": options}
        p = subprocess.Popen([sys.executable, os.path.abspath(__file__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             preexec_fn=lib._die_with_parent)
        p.stdin.write(json.dumps(task).encode() + b"\n")
        p.stdin.flush()
        running.append(p)
    for p in running:
        assert p.stdout.readline() == b"ready\n"
    results = []
    for p in running:
        p.stdin.write(b"go\n")
        p.stdin.flush()
    for p in running:
        out, _ = p.communicate(timeout=120 * lib.SLOWNESS)
        assert p.returncode == 0, "a process of readers exited with %d" % p.returncode
        results += json.loads(out)
    return results


def _process():
    task = json.loads(sys.stdin.readline())
    results = [{} for _ in range(task["threads"])]
    with fbclient.Client(task["peers"], **task["options"]) as client:
        def read_all(mine):
            for key in task["keys"]:
                try:
                    mine[key] = hashlib.sha256(client.get(task["ns"], key)).hexdigest()
                except fbclient.Error as e:
                    mine[key] = e.name

        threads = [threading.Thread(target=read_all, args=(r,)) for r in results]
        print("ready", flush=True)
        assert sys.stdin.readline() == "go\n"
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    print(json.dumps(results))


if __name__ == "__main__":
    _process()
