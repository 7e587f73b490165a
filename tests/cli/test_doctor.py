"""doctor: each finding with its status and what to do, whatever is broken."""

import os
import re
import resource
import shutil
import socket
import subprocess

import pytest
from conftest import BINARY

LINE = re.compile(r"(ok|warn|fail)  +([a-z_]+)  +(\S.*?)(?:  -> (\S.*))?")

DAEMON = """#!/bin/sh
if [ "$1" = --check-config ]; then
  %s
fi
cat <<'TXT'
# made by a test
peer:
  # Name of this peer in the member list
  name: ""
  listen: "%s"
  state_dir: "%s"
ram:
  max_bytes: %s
rpc:
  threads: 0
  max_connections: %d
TXT
"""


@pytest.fixture
def daemon(fake):
    """daemon(...) writes a program that speaks as `forebayd --check-config` and `--dump-config` do; -> arguments."""

    def write(check="exit 0", listen="127.0.0.1:0", state_dir="/", ram="1MiB", connections=16):
        path = fake.cwd / "forebayd"
        path.write_text(DAEMON % (check, listen, state_dir, ram, connections))
        path.chmod(0o755)
        (fake.cwd / "conf.yaml").write_text("peer: {}\n")
        return "--forebayd", str(path), "--daemon-config", "conf.yaml"

    return write


def findings(r):
    return [(c["status"], c["check"], c["detail"], c.get("todo")) for c in r.json["checks"]]


def of(r, check):
    return [f for f in findings(r) if f[1] == check]


def test_all_is_well(fake):
    fake.namespace("ds")
    r = fake.ok("doctor")
    *lines, last = r.out.splitlines()
    assert all(LINE.fullmatch(line) for line in lines), r.out
    checks = [LINE.fullmatch(line).group(2) for line in lines]
    assert {"config", "limits", "io_uring", "peers", "clock", "ring", "space"} <= set(checks)
    assert checks.count("peers") == checks.count("clock") == 3
    assert re.fullmatch(r"\d+ ok, \d+ warnings, 0 failures", last)
    r = fake.ok("doctor", "--json")
    assert r.json["ok"] + r.json["warn"] == len(r.json["checks"]) and r.json["fail"] == 0
    assert all(c["todo"] for c in r.json["checks"] if c["status"] != "ok")
    assert not any(line.startswith("ok ") for line in fake.ok("doctor", "-q").out.splitlines())


# ---- the cluster ------------------------------------------------------------------------------------------------


def test_another_ring(fake):
    r = fake("doctor", "--json", FAKE_OTHER_RING="n2")
    assert r.returncode == 1 and r.json["fail"] == 1
    status, _, detail, todo = of(r, "ring")[0]
    assert status == "fail" and "n2" in detail and "0000000000000001" in detail and "cluster.members" in todo


@pytest.mark.parametrize("skew_ms,status,word", [(999, "ok", "+0.999"), (-999, "ok", "-0.999"), (1001, "fail", "ahead"),
                                                 (-86400000, "fail", "behind")])
def test_clocks(fake, skew_ms, status, word):
    r = fake("doctor", "--json", FAKE_SKEW_MS=skew_ms)
    assert r.returncode == (1 if status == "fail" else 0)
    found = of(r, "clock")
    assert [f[0] for f in found] == ["ok", "ok", status] and word in found[2][2]


def test_a_peer_that_is_down_is_told_by_what_its_port_does(fake):
    with socket.socket() as closed, socket.create_server(("127.0.0.1", 0)) as silent:
        closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
        for address, word, todo in (("127.0.0.1:%d" % closed.getsockname()[1], "nothing listens", "start forebayd"),
                                    ("127.0.0.1:%d" % silent.getsockname()[1], "the port is open", "log"),
                                    ("no-such-host.invalid:7401", "does not resolve", "DNS"),
                                    ("[::1]:1", "", ""), ("garbage", "", "")):
            r = fake("doctor", "--json", FAKE_DOWN="n2", FAKE_ADDRESS=address)
            assert r.returncode == 1
            failed = [f for f in of(r, "peers") if f[0] == "fail"]
            assert len(failed) == 1 and "n2 " + address in failed[0][2]
            assert word in failed[0][2] and todo in failed[0][3]
        assert len(of(r, "clock")) == 2


def test_no_peer_answers(fake):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % closed.getsockname()[1]
        r = fake("doctor", "--json", "--peers", address + ",127.0.0.1:1", FAKE_FAIL="fb_open:5017")
        assert r.returncode == 1 and r.json["fail"] == 2
        assert [f[2] for f in of(r, "peers")] == ["peer %s: nothing listens there" % a for a in (address, "127.0.0.1:1")]
        r = fake("doctor", "--json", FAKE_FAIL="fb_open:5017", FOREBAY_PEERS=address)
        assert address in of(r, "peers")[0][2]
    assert of(fake("doctor", "--json", FAKE_FAIL="fb_open:5009"), "peers")[0][3].startswith("name peers with --peers")
    assert of(fake("doctor", "--json", FAKE_FAIL="fb_open:5011"), "ring")[0][0] == "fail"
    r = fake("doctor", "--json", FAKE_FAIL="fb_cluster_status:5017")
    assert r.returncode == 1 and of(r, "peers")[0][0] == "fail" and of(r, "limits")


def test_many_dead_peers_do_not_take_long(fake):
    r = fake("doctor", "--json", timeout=30, FAKE_PEERS=200, FAKE_ADDRESS="192.0.2.1:1",
             FAKE_DOWN=",".join("n%d" % i for i in range(1, 201)))
    assert r.returncode == 1 and r.json["fail"] == 200
    assert [f[2] for f in of(r, "peers")][199] == "n200 192.0.2.1:1: connection refused"


def test_origin_that_is_not_here(fake):
    fake.namespace("ds")
    r = fake.ok("doctor", "--json", FAKE_ORIGIN="/nowhere")
    assert ("warn", "space") == of(r, "space")[0][:2] and "/nowhere/ds" in of(r, "space")[0][2]
    r = fake.ok("doctor", "--json", FAKE_FAIL="fb_ns_list:5017")
    assert of(r, "space")[0][0] == "warn"


# ---- this machine -----------------------------------------------------------------------------------------------


def test_configuration(fake, daemon):
    r = fake.ok("doctor", "--json", *daemon())
    assert of(r, "config")[0][0] == "ok" and "conf.yaml is accepted" in of(r, "config")[0][2]
    assert of(r, "port")[0][2] == "127.0.0.1:0 takes a free port" and len(of(r, "memory")) == 1
    assert "state directory /" in of(r, "space")[0][2]
    r = fake("doctor", "--json", *daemon("echo 'conf.yaml:3: ram.max_bytez: unknown key' >&2; exit 78"))
    assert r.returncode == 1
    assert of(r, "config")[0] == ("fail", "config", "conf.yaml:3: ram.max_bytez: unknown key", "correct the file as it says")
    r = fake("doctor", "--json", *daemon("kill -9 $$"))
    assert r.returncode == 1 and of(r, "config")[0][0] == "fail"
    r = fake.ok("doctor", "--json", "--daemon-config", "conf.yaml", "--forebayd", "/no/such/forebayd")
    assert of(r, "config")[0][0] == "warn" and "/no/such/forebayd" in of(r, "config")[0][2]


def test_a_check_that_hangs_is_ended(fake, daemon):
    r = fake("doctor", "--json", *daemon("exec sleep 100"), timeout=30)
    assert r.returncode == 1 and "timed out" in of(r, "config")[0][2]
    r = fake("doctor", "--json", *daemon("exec sleep 100 >/dev/null 2>&1"), timeout=30)
    assert r.returncode == 1 and "timed out" in of(r, "config")[0][2]
    r = fake.ok("doctor", "--json", *daemon("yes | head -c 10000000; exit 0"), timeout=30)
    assert of(r, "config")[0][0] == "ok"


def test_ports(fake, daemon):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = "127.0.0.1:%d" % taken.getsockname()[1]
        r = fake("doctor", "--json", *daemon(listen=listen))
        assert r.returncode == 1
        status, _, detail, todo = of(r, "port")[0]
        assert status == "fail" and "process %d" % os.getpid() in detail and "peer.listen" in todo
    r = fake.ok("doctor", "--json", *daemon(listen=listen))
    assert of(r, "port")[0][2] == listen + " is free: forebayd is not running"
    r = fake("doctor", "--json", *daemon(listen="192.0.2.1:7401"))
    assert r.returncode == 1 and "address of this machine" in of(r, "port")[0][3]
    assert of(fake.ok("doctor", "--json", *daemon(listen="[::1]:0")), "port")


def test_a_forebayd_on_the_port(fake, daemon):
    """Any program of that name will do."""
    arguments = daemon()
    shutil.copy("/usr/bin/python3.11" if os.path.exists("/usr/bin/python3.11") else "/usr/bin/python3", fake.cwd / "bin")
    (fake.cwd / "name").mkdir()
    os.rename(fake.cwd / "bin", fake.cwd / "name" / "forebayd")
    p = subprocess.Popen([fake.cwd / "name" / "forebayd", "-c", "import socket,sys\n"
                          "s = socket.create_server(('127.0.0.1', 0))\n"
                          "print(s.getsockname()[1], flush=True)\nsys.stdin.read()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        listen = "127.0.0.1:%d" % int(p.stdout.readline())
        arguments = daemon(listen=listen, connections=4)
        r = fake.ok("doctor", "--json", *arguments)
        assert of(r, "port")[0][2] == "forebayd (process %d) listens on %s" % (p.pid, listen)
        assert "of forebayd" in of(r, "limits")[0][2]
        soft = resource.prlimit(p.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(p.pid, resource.RLIMIT_NOFILE, (100, soft[1]))
        r = fake("doctor", "--json", *arguments)
        assert r.returncode == 1 and of(r, "limits")[0][0] == "fail" and "LimitNOFILE" in of(r, "limits")[0][3]
    finally:
        p.stdin.close()
        p.stdout.close()
        p.wait(30)


def test_memory(fake, daemon):
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    for ram, status in (("1MiB", "ok"), (str(total // 100 * 95), "warn"), (str(total + 1), "fail"), ("1023TiB", "fail")):
        r = fake("doctor", "--json", *daemon(ram=ram))
        assert [f[0] for f in of(r, "memory")] == [status] and r.returncode == (status == "fail")


@pytest.mark.parametrize("limit,bound,status", [("nofile", 100, "warn"), ("memlock", 65536, "warn")])
def test_limits(fake, limit, bound, status):
    number = resource.RLIMIT_NOFILE if limit == "nofile" else resource.RLIMIT_MEMLOCK
    p = subprocess.run([BINARY, "doctor", "--json"], env=fake.env({}), capture_output=True, check=True,
                       preexec_fn=lambda: resource.setrlimit(number, (bound, resource.getrlimit(number)[1])))
    assert b'"status": "%s", "check": "limits"' % status.encode() in p.stdout


def test_state_directory_that_is_not_there(fake, daemon):
    r = fake.ok("doctor", "--json", *daemon(state_dir="/no/such/place"))
    assert of(r, "space")[0][0] == "warn" and "/no/such/place" in of(r, "space")[0][2]
