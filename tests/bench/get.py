"""get.py - the servers of bench get: one forebayd, memcached and redis, each with a value cache in RAM and two threads'
worth of server, on loopback; then build/bench_get with their addresses in its environment."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))

from tests.lib import cluster  # noqa: E402


def port_open(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


@contextlib.contextmanager
def server(argv, port):
    """A server that is ours from start to end, ready once its port takes a connection."""
    p = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        cluster.wait_until(lambda: port_open(port) or p.poll() is not None, what="%s listens" % argv[0])
        if p.poll() is not None:
            raise SystemExit("%s ended with status %d" % (argv[0], p.returncode))
        yield p
    finally:
        p.kill()
        p.wait()


def main():
    tmp = tempfile.mkdtemp(prefix="forebay-bench-")
    try:
        mport, rport = cluster.free_ports(2)
        memcached = ["memcached", "-l", "127.0.0.1", "-p", str(mport), "-U", "0", "-t", "2", "-m", "1024", "-I", "8m"]
        if os.geteuid() == 0:
            memcached += ["-u", "nobody"]
        redis = ["redis-server", "--port", str(rport), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                 "--dir", tmp]
        with contextlib.closing(cluster.Cluster(1, ram={"max_bytes": "1GiB"})) as c, \
                server(memcached, mport), server(redis, rport):
            c.cli("ns", "create", "bench", "--derived", "--ack", "ram")
            env = dict(os.environ, BENCH_FOREBAY=c.addresses, BENCH_MEMCACHED=str(mport),
                       BENCH_REDIS=str(rport))
            return subprocess.call([os.path.join(cluster.BUILD, "bench_get")] + sys.argv[1:], env=env)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
