#!/usr/bin/python3
"""run.py - runs every fuzz target: first its whole corpus, then new inputs for some seconds from a fixed seed.

The corpus is copied, so that the tree is never written to. A finding is copied to --artifacts (default: the current
folder's fuzz-findings/) and its place printed. Exits 1 when a target fails, lacks a corpus, or there is no target.
"""

import argparse
import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.sax.saxutils as sax

HERE = os.path.dirname(os.path.abspath(__file__))


def run_target(binary, name, args, scratch):
    corpus = os.path.join(HERE, "corpus", name)
    if not os.path.isdir(corpus) or not os.listdir(corpus):
        return "no corpus: put a few inputs into tests/fuzz/corpus/%s/" % name, "", 0.0
    work = os.path.join(scratch, name)
    shutil.copytree(corpus, os.path.join(work, "corpus"))
    artifacts = os.path.join(work, "artifacts") + "/"
    os.mkdir(artifacts)
    command = [binary, "-seed=%d" % args.seed, "-max_total_time=%d" % args.seconds, "-timeout=10", "-rss_limit_mb=2048",
               "-print_final_stats=1", "-artifact_prefix=" + artifacts, os.path.join(work, "corpus")]
    start = time.monotonic()
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=args.seconds + 120, check=False)
    except subprocess.TimeoutExpired as e:
        return "did not end", (e.stdout or b"").decode("utf-8", "replace"), time.monotonic() - start
    output = done.stdout.decode("utf-8", "replace")
    seconds = time.monotonic() - start
    if done.returncode == 0:
        return None, output, seconds
    found = os.listdir(artifacts)
    if found:
        keep = os.path.join(args.artifacts, name)
        os.makedirs(keep, exist_ok=True)
        for f in found:
            shutil.copy(os.path.join(artifacts, f), keep)
        output += "\nfinding kept in %s: %s\n" % (keep, ", ".join(found))
    return "exit status %d" % done.returncode, output, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", default="build-fuzz")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--junit")
    parser.add_argument("--artifacts", default="fuzz-findings")
    parser.add_argument("target", nargs="*", help="names without fuzz_ (default: all)")
    args = parser.parse_args()

    names = sorted(f[5:-2] for f in os.listdir(HERE) if f.startswith("fuzz_") and f.endswith(".c"))
    if args.target:
        names = [n for n in names if n in args.target]
    results = {}
    with tempfile.TemporaryDirectory(prefix="forebay-fuzz.") as scratch:
        with concurrent.futures.ThreadPoolExecutor(max(1, args.jobs)) as pool:
            waiting = {n: pool.submit(run_target, os.path.join(args.build, "fuzz_" + n), n, args, scratch) for n in names}
            for name, future in waiting.items():
                try:
                    results[name] = future.result()
                except OSError as e:
                    results[name] = (str(e), "", 0.0)
                why, output, seconds = results[name]
                runs = [l for l in output.split("\n") if l.startswith("stat::number_of_executed_units")]
                print("%-4s %-24s %6.1f s %s" % ("FAIL" if why else "ok", name, seconds,
                                                 runs[0].split(":")[-1].strip() + " runs" if runs else why or ""))
                if why:
                    print("%s: %s\n%s" % (name, why, output[-20000:]))
                sys.stdout.flush()
    if args.junit:
        with open(args.junit, "w", encoding="utf-8") as f:
            f.write("<testsuite>\n")
            for name, (why, _, seconds) in results.items():
                failure = "<failure message=%s/>" % sax.quoteattr(why) if why else ""
                f.write('<testcase name="fuzz_%s" time="%.3f">%s</testcase>\n' % (name, seconds, failure))
            f.write("</testsuite>\n")
    if not names:
        print("no fuzz target in %s" % HERE)
    return 1 if not names or any(why for why, _, _ in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
