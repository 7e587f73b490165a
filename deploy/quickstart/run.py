"""run.py - the quickstart's story, after everything is built: three peers, one dataset, every byte compared, one peer
killed, one table. deploy/quickstart.sh calls it and tells its options."""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import dataset
import libforebay
import peers as peers_module
import reading

NS = "demo"
ROUNDS = 3
SAMPLE_BYTES = 256 << 20  # read for each source and round
LARGE_BYTES = 4 << 30     # beyond it one round is enough
GB = 1e9


def say(text):
    print(text, flush=True)


def fail(text):
    raise SystemExit("quickstart: " + text)


def mem_available():
    with open("/proc/meminfo", encoding="ascii") as f:
        for line in f:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 0


def drop_caches():
    """Forgets the page cache, so that reading the origin costs what it costs. True when that was allowed."""
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
            f.write("3\n")
        return True
    except OSError:
        return False


class Story:
    def __init__(self, args, folder):
        self.args, self.dir = args, folder
        self.build = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build"))
        self.root = os.path.realpath(args.dataset) if args.dataset else os.path.join(folder, "dataset")
        self.peers = None
        self.ok = True
        self.result = {}

    def expect(self, condition, text):
        if not condition:
            self.ok = False
            say("WRONG: " + text)

    # ---- the dataset ----

    def prepare(self):
        if not self.args.dataset:
            free = shutil.disk_usage(self.dir).free
            if free < 3 * dataset.SHARDS_BYTES:
                fail("%s has %.1f GB free, %.1f are needed: set TMPDIR to a larger place" %
                     (self.dir, free / GB, 3 * dataset.SHARDS_BYTES / GB))
            say("making a dataset of files found on this machine in " + self.root)
            dataset.make(self.root)
        self.sizes = dataset.listing(self.root)
        self.bytes = sum(self.sizes.values())
        if not self.bytes:
            fail("%s holds no files with bytes in them" % self.root)
        # Any two peers hold all of it, with what each block costs besides its bytes.
        self.ram = max(256 << 20, int(self.bytes * 0.65) + (len(self.sizes) << 10) + (64 << 20))
        if mem_available() < self.bytes * 1.2 + (512 << 20):
            fail("the dataset has %.2f GB, this machine %.2f GB of free memory: give a smaller directory" %
                 (self.bytes / GB, mem_available() / GB))
        say("dataset: %d files, %.3f GB; computing their SHA-256" % (len(self.sizes), self.bytes / GB))
        self.digests = dataset.hashes(self.root, self.sizes, os.cpu_count() or 1)
        self.result.update(dataset_bytes=self.bytes, files=len(self.sizes))

    # ---- the cluster ----

    def start(self):
        self.peers = peers_module.Peers(self.build, self.dir, self.root, self.ram, self.args.keep)
        self.peers.start()
        self.library = libforebay.Library(os.path.join(self.build, "libforebay.so"))
        say("three peers: " + ", ".join("%s %s" % p for p in self.peers.addresses.items()))
        self.peers.cli("ns", "create", NS, "--origin", self.root)

    def client(self, *names, any_peer=False):
        return libforebay.Client(self.library, ",".join(self.peers.addresses[n] for n in names), any_peer)

    # ---- prestage against cp ----

    def time_cp(self):
        target = os.path.join(self.dir, "copy")
        os.sync()
        start = time.monotonic()
        subprocess.run(["cp", "-r", self.root, target], check=True, stdin=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        shutil.rmtree(target)
        return seconds

    def time_prestage(self):
        self.peers.cli("invalidate", NS)
        start = time.monotonic()
        r = self.peers.cli("prestage", NS, "--wait", "--json", check=False, timeout_s=3600)
        seconds = time.monotonic() - start
        try:
            last = json.loads(r.stdout.strip().split("\n")[-1])
        except ValueError:
            last = {}
        # The cache also lists files behind links that stay inside, so there may be more than we read back.
        resident, listed = last.get("bytes_resident", 0), last.get("bytes_total", 0)
        self.expect(r.returncode == 0 and resident == listed and listed >= self.bytes,
                    "prestage: exit status %d, %d of %d bytes resident, %d expected %s" %
                    (r.returncode, resident, listed, self.bytes, r.stderr.strip()))
        return seconds

    def prestage(self):
        rounds = 1 if self.bytes > LARGE_BYTES else ROUNDS
        with_cp = shutil.disk_usage(self.dir).free > self.bytes + (1 << 30)
        cp, prestage = [], []
        say("prestaging it%s, %d time%s" % (" and copying it with cp, in turn" if with_cp else "", rounds,
                                            "s" if rounds > 1 else ""))
        self.dropped = drop_caches()
        for i in range(rounds):
            for what in ((self.time_cp, cp), (self.time_prestage, prestage))[::1 if i % 2 else -1]:
                if what[1] is cp and not with_cp:
                    continue
                drop_caches()
                what[1].append(what[0]())
        rates = {"rounds": rounds, "caches_dropped": self.dropped,
                 "prestage_gb_per_s": self.bytes / GB / statistics.median(prestage),
                 "cp_gb_per_s": self.bytes / GB / statistics.median(cp) if cp else None}
        rates["prestage_over_cp"] = rates["prestage_gb_per_s"] / rates["cp_gb_per_s"] if cp else None
        self.result["rates"] = rates

    # ---- reading ----

    def read_through(self, name):
        with self.client(name, any_peer=True) as c:
            out = reading.verify(c, NS, self.sizes, self.digests)
        self.judge(out, "through peer " + name)
        return out

    def judge(self, out, what):
        say("read %s: %d files, %.3f GB equal to the origin, %d failed, %d wrong, %.2f GB/s with SHA-256" %
            (what, out.files, out.bytes_verified / GB, out.failed, out.wrong, out.bytes_verified / GB / out.seconds))
        self.expect(out.failed == 0 and out.wrong == 0 and out.files == len(self.sizes),
                    "read %s: %d failed, %d wrong; %s" % (what, out.failed, out.wrong, "; ".join(out.texts)))

    def read_twice(self):
        both = [self.read_through("a"), self.read_through("b")]
        totals = {k: sum(o.stats[k] for o in both) for k in both[0].stats}
        self.sources = {"peer": totals["bytes_forwarded"], "origin": totals["bytes_origin"],
                        "ram": max(0, totals["bytes_ram"] - totals["bytes_forwarded"])}
        self.result.update(read_bytes_verified=sum(o.bytes_verified for o in both),
                           failed_reads=sum(o.failed for o in both), wrong_files=sum(o.wrong for o in both),
                           bytes_by_source=self.sources)

    def source_rates(self):
        """The same bytes from each source, in turn: what peer a holds itself, what another holds, what nobody holds."""
        rates, runs = self.result["rates"], {"ram": [], "peer": [], "origin": []}
        with self.client("a", any_peer=True) as c:
            owned = reading.chunks_by_owner(c, NS, self.sizes, SAMPLE_BYTES)
            own = owned.get("a", [])
            others = reading.interleave([v for k, v in sorted(owned.items()) if k != "a"], SAMPLE_BYTES)
            for _ in range(ROUNDS):
                for source, chunks in (("ram", own), ("peer", others), ("origin", own)):
                    if not chunks:
                        continue
                    if source == "origin":
                        self.peers.cli("invalidate", NS)
                        drop_caches()
                    runs[source].append(reading.read_chunks(c, NS, chunks))
                self.peers.cli("prestage", NS, "--wait", "--json", check=False)
        for source, measured in runs.items():
            rates[source + "_gb_per_s"] = statistics.median(b / GB / s for b, s in measured) if measured else None

    def kill_one(self):
        say("reading everything again; kill -9 of peer c when a third has been read")
        with self.client("a", "b", "c") as c:
            during = reading.verify(c, NS, self.sizes, self.digests, self.bytes // 3, lambda: self.peers.kill("c"))
        self.judge(during, "while c died")
        with self.client("c", "a", "b") as c:
            again = reading.verify(c, NS, self.sizes, self.digests)
        self.judge(again, "without c")
        self.expect(not self.peers.unexpected_ends(["c"]), "a peer ended that was not killed")
        self.result["after_kill"] = dict(again.as_dict(), killed="c", during=during.as_dict())

    # ---- what came of it ----

    def ring(self):
        status = json.loads(self.peers.cli("status", "--json").stdout)
        slots = {p["name"]: p["slots_owned"] for p in status["peers"]}
        used = {p["name"]: p["ram_used_bytes"] for p in status["peers"]}
        self.expect(all(p["reachable"] for p in status["peers"]), "not all peers answer")
        self.result["ring"] = {"slots": slots, "max_over_mean": max(slots.values()) * len(slots) / sum(slots.values()),
                               "ram_used_bytes": used}

    def table(self):
        r, rates, ring, kill = self.result, self.result["rates"], self.result["ring"], self.result["after_kill"]

        def gbs(value):
            return "%8.2f GB/s" % value if value else "       -     "

        # Bytes are those of the two verified reads, by where they came from; rates were measured one source at a time.
        rows = [("", "bytes", "rate", "")]
        rows += [("read from %s" % text, "%.3f GB" % (self.sources[k] / GB), gbs(rates[k + "_gb_per_s"]), note)
                 for k, text, note in (("ram", "RAM", "the peer that was asked held it"),
                                       ("peer", "peer", "another peer held it: one hop more"),
                                       ("origin", "origin", "nobody held it: 0 bytes after the prestage, rate when invalidated"))]
        cold = "caches dropped before each run" if rates["caches_dropped"] else "not root: page cache warm"
        rows += [("prestage", "%.3f GB" % (self.bytes / GB), gbs(rates["prestage_gb_per_s"]),
                  "median of %d, %s" % (rates["rounds"], cold)),
                 ("cp -r of the same", "%.3f GB" % (self.bytes / GB), gbs(rates["cp_gb_per_s"]),
                  "in turn with it; prestage/cp %s" %
                  ("%.2f" % rates["prestage_over_cp"] if rates["prestage_over_cp"] else "-")),
                 ("verified", "%.3f GB" % (r["read_bytes_verified"] / GB), "",
                  "%d files by two peers, %d failed reads" % (r["files"], r["failed_reads"])),
                 ("after kill -9", "%.3f GB" % (kill["read_bytes_verified"] / GB), "",
                  "%d failed reads, %d more while the peer died" % (kill["failed_reads"],
                                                                    kill["during"]["failed_reads"])),
                 ("ring", "%d slots" % sum(ring["slots"].values()), "",
                  "max/mean %.3f (%s)" % (ring["max_over_mean"], ", ".join("%s %d" % s for s in ring["slots"].items())))]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        say("")
        for row in rows:
            say("  %-*s  %*s  %*s  %s" % (widths[0], row[0], widths[1], row[1], widths[2], row[2], row[3]))
        say("")

    def tell(self):
        self.prepare()
        self.start()
        self.prestage()
        self.read_twice()
        self.ring()
        self.source_rates()
        self.kill_one()
        self.table()
        if self.args.keep:
            self.peers.restart("c")

    def finish(self):
        if self.peers and not self.args.keep:
            wrong = self.peers.stop(killed=["c"] if "after_kill" in self.result else [])
            self.expect(not wrong, "peers that did not end with 0 after SIGTERM: " + ", ".join(wrong))

    def write_json(self):
        first = {"ok": self.ok, "peers": len(self.peers.addresses) if self.peers else 0}
        text = json.dumps({**first, **self.result}, indent=1) + "\n"
        with open(self.args.json, "w", encoding="utf-8") as f:
            f.write(text)

    def tell_how_to_stop(self):
        stop = os.path.join(self.dir, "stop")
        with open(stop, "w", encoding="utf-8") as f:
            f.write("#!/bin/sh\n# Ends this cluster and removes what belongs to it.\nkill %s\nrm -rf '%s'\n" %
                    (" ".join(str(p.pid) for p in self.peers.procs.values()), self.dir))
        os.chmod(stop, 0o755)
        say("The cluster stays up. To talk to it:\n\n  export FOREBAY_PEERS=%s\n  %s/forebay status\n"
            "  %s/forebay ls %s\n\nIts files are in %s. To stop it and remove them:\n\n  %s\n" %
            (",".join(self.peers.addresses.values()), self.build, self.build, NS, self.dir, stop))


def main():
    parser = argparse.ArgumentParser(prog="quickstart.sh")
    parser.add_argument("dataset", nargs="?")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--json")
    args = parser.parse_args()

    def interrupted(number, _frame):
        raise SystemExit(128 + number)

    signal.pthread_sigmask(signal.SIG_BLOCK, peers_module.ENDING)
    for number in peers_module.ENDING:
        signal.signal(number, interrupted)
    story = done = None
    folder = tempfile.mkdtemp(prefix="forebay-quickstart.", dir=os.environ.get("TMPDIR") or "/var/tmp")
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, peers_module.ENDING)
        story = Story(args, folder)
        started = time.monotonic()
        story.tell()
        story.finish()
        if args.json:
            story.write_json()
        say("%s in %.0f s" % ("all is well" if story.ok else "NOT all is well", time.monotonic() - started))
        if args.keep:
            story.tell_how_to_stop()
        done = True
    except (peers_module.PeerError, libforebay.ForebayError, subprocess.SubprocessError, OSError) as e:
        print("quickstart: %s" % e, file=sys.stderr)
        if story and args.json:
            story.ok = False
            story.result["error"] = str(e)
            story.write_json()
        return 1
    finally:
        for number in peers_module.ENDING:
            signal.signal(number, signal.SIG_IGN)
        if not (done and args.keep):
            if story and story.peers:
                story.peers.stop()
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if story.ok else 1


if __name__ == "__main__":
    sys.exit(main())
