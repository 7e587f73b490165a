"""test_example.py - the guide's example against real peers, and a program built as docs/client.md says: from an installed
tree, by pkg-config alone."""

import os
import subprocess

import pytest

from tests.lib import cluster as lib


@pytest.fixture
def demo(make_cluster, origin):
    data = origin.write("dir/f.bin", size=(17 << 20) + 5)
    c = make_cluster(2, roots=[origin.path])
    c.cli("ns", "create", "demo", "--origin", origin.path)
    return c, data


def run(program, c, *args):
    return subprocess.run([program, *args], env=dict(os.environ, FOREBAY_PEERS=c.addresses), capture_output=True,
                          timeout=lib.CLI_TIMEOUT_S)


def test_example_reads(demo):
    c, data = demo
    program = os.path.join(lib.BUILD, "forebay-example-read")
    r = run(program, c, "demo", "dir/f.bin")
    assert r.returncode == 0 and r.stdout == data
    r = run(program, c, "demo", "none")
    assert r.returncode == 1 and b"ENOENT" in r.stderr and r.stdout == b""
    assert run(program, c).returncode == 2


@pytest.mark.skipif(lib.SANITIZED, reason="an instrumented library wants an instrumented program")
def test_installed_tree_builds_a_program(demo, tmp_path):
    c, data = demo
    prefix = tmp_path / "usr"
    subprocess.run(["cmake", "--install", lib.BUILD, "--prefix", str(prefix)], check=True, capture_output=True)
    installed = {os.path.relpath(os.path.join(d, f), prefix) for d, _, files in os.walk(prefix) for f in files}
    for want in ("bin/forebay", "sbin/forebayd", "include/forebay/forebay.h", "share/man/man1/forebay.1",
                 "share/man/man8/forebayd.8"):
        assert want in installed, sorted(installed)
    pc = next(f for f in installed if f.endswith("pkgconfig/forebay.pc"))
    env = dict(os.environ, PKG_CONFIG_PATH=str(prefix / os.path.dirname(pc)))
    flags = subprocess.run(["pkg-config", "--define-prefix", "--cflags", "--libs", "forebay"], env=env, check=True, capture_output=True,
                           text=True).stdout.split()
    program = tmp_path / "read"
    libdir = str((prefix / pc).parent.parent)
    subprocess.run(["cc", os.path.join(lib.REPO, "client/examples/read.c"), "-o", str(program), *flags,
                    "-Wl,-rpath," + libdir], check=True)
    r = run(str(program), c, "demo", "dir/f.bin")
    assert r.returncode == 0 and r.stdout == data
