"""Command lines, good and bad: --help, the manual page and the completion script tell the same, every mistake is named
together with what would be accepted, and exit statuses are as documented."""

import os
import re
import shutil
import subprocess

import cluster as lib
import pytest
from conftest import COMMANDS

OPTION = re.compile(r"--([a-z][a-z-]*)")


def options_of_help(text):
    """Options that stand at the left of a help text, not those that sentences mention."""
    return set(re.findall(r"^  (?:-\w, |    )--([a-z-]+)", text, re.M))


@pytest.fixture(scope="module")
def manual():
    with open(os.path.join(lib.REPO, "docs/man/forebay.1"), encoding="utf-8") as f:
        return f.read()


# ---- help, manual, completion -----------------------------------------------------------------------------------


def test_help_lists_every_command_and_exit_status(fake):
    out = fake.ok("--help").out
    assert re.findall(r"^  ((?:ns )?[a-z]+) {2,}\S", out, re.M)[:len(COMMANDS)] == COMMANDS
    assert re.findall(r"^  (\d)  ", out, re.M) == list("01234567")
    assert max(map(len, out.splitlines())) <= 80
    assert fake.ok("help").out == out
    assert fake.calls() == []  # no cluster is needed to be helped


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps(fake, command):
    r = fake.ok(*command.split(), "--help")
    assert r.out.startswith("usage: forebay " + command)
    assert {"json", "help", "peers", "timeout-ms"} <= options_of_help(r.out)
    assert max(map(len, r.out.splitlines())) <= 80
    assert r.err == "" and fake.calls() == []
    assert fake.ok("help", *command.split()).out == r.out
    assert fake.ok("--help", *command.split()).out == r.out
    assert fake.ok(*command.split(), "-h", "a", "b", "c").out == r.out


def test_group_help(fake):
    for argv in (["ns", "--help"], ["help", "ns"], ["--help", "ns"]):
        out = fake.ok(*argv).out
        assert [c for c in COMMANDS if c.startswith("ns ")] == re.findall(r"^  (ns [a-z]+)", out, re.M)


def test_manual_is_what_the_table_says(fake, manual):
    assert fake.ok("help", "--man").out == manual, "build/forebay help --man >docs/man/forebay.1"


@pytest.mark.parametrize("command", COMMANDS)
def test_manual_and_help_know_the_same_options(fake, manual, command):
    text = manual.replace("\\-", "-")
    sections = dict(re.findall(r"^\.SS forebay ((?:ns )?[a-z]+) ?[^\n]*\n(.*?)(?=^\.S[SH])", text, re.M | re.S))
    of_all = set(re.findall(r"\\fB--([a-z-]+)", text.split(".SH OPTIONS")[1]))
    assert sorted(sections) == sorted(COMMANDS)
    own = set(re.findall(r"\\fB--([a-z-]+)", sections[command]))
    assert own | of_all == options_of_help(fake.ok(*command.split(), "--help").out)


@pytest.mark.skipif(not shutil.which("groff"), reason="no groff here")
def test_manual_has_no_roff_mistakes():
    p = subprocess.run(["groff", "-ww", "-man", "-Tutf8", "-z", os.path.join(lib.REPO, "docs/man/forebay.1")],
                       capture_output=True, check=True)
    assert p.stderr == b""


def test_version(fake):
    assert re.fullmatch(r"forebay \d+\.\d+\.\d+ \(libforebay \S+\)\n", fake.ok("--version").out)
    assert fake.ok("-V").out == fake.ok("--version").out


# ---- mistakes ---------------------------------------------------------------------------------------------------

MISTAKES = [
    ([], "no command"),
    (["stauts"], "'status'"),
    (["prestag"], "'prestage'"),
    (["xyzzy"], "forebay --help"),
    (["ns", "lst"], "'ns list'"),
    (["ns", "xyzzy"], "unknown command 'ns xyzzy'"),
    (["ns"], "one of the commands above"),
    (["get"], "forebay get NS/KEY"),
    (["get", "ds/a", "ds/b"], "forebay get NS/KEY"),
    (["put", "ds/a"], "NS/KEY FILE|-"),
    (["status", "x"], "usage: forebay status"),
    (["get", "ds/a", "--ofset", "3"], "did you mean --offset?"),
    (["get", "ds/a", "--off", "3"], "--offset"),
    (["get", "ds/a", "--off=3"], "--offset"),
    (["get", "ds/a", "--xyzzy"], "unknown option --xyzzy"),
    (["get", "ds/a", "-Z"], "unknown option -Z"),
    (["--xyzzy", "status"], "unknown option --xyzzy"),
    (["get", "ds/a", "--offset"], "--offset N"),
    (["get", "ds/a", "-o"], "--output FILE"),
    (["get", "ds/a", "-o", ""], "--output"),
    (["get", "ds/a", "--json=yes"], "--json takes no value"),
    (["get", "ds/a", "--offset", "abc"], "64KiB"),
    (["get", "ds/a", "--offset", "-1"], "bytes"),
    (["get", "ds/a", "--offset", "1.5"], "bytes"),
    (["get", "ds/a", "--offset", "9223372036854775808"], "bytes"),
    (["get", "ds/a", "--offset", "99999999999999999999"], "bytes"),
    (["get", "ds/a", "--offset", "16777216TiB"], "bytes"),
    (["get", "ds/a", "--offset", "1KB"], "bytes"),
    (["--timeout-ms", "0", "status"], "1..3600000"),
    (["--timeout-ms", "3600001", "status"], "1..3600000"),
    (["--timeout-ms", "10s", "status"], "1..3600000"),
    (["--config", "", "status"], "--config"),
    (["ls", "ds", "--limit", "0"], "1.."),
    (["ns", "create", "x", "--origin", "/d", "--block-size", "65537"], "power of two"),
    (["ns", "create", "x", "--origin", "/d", "--block-size", "1"], "65536..4194304"),
    (["ns", "create", "x", "--origin", "/d", "--block-size", "8MiB"], "65536..4194304"),
    (["ns", "create", "x"], "--origin DIR"),
    (["ns", "create", "x", "--derived", "--ack", "disk"], "ram or origin"),
    (["ns", "create", "x", "--origin", "/d", "--ack", "ram"], "--derived"),
    (["ns", "create", "x" * 65, "--derived"], "64"),
    (["ns", "create", "x", "--derived", "--version", "v" * 256], "255"),
    (["prestage", "ds", "--target", "50"], "--wait"),
    (["prestage", "ds", "--wait", "--target", "101"], "0..100"),
    (["prestage", "ds", "--wait", "--target", "-1"], "0..100"),
    (["prestage", "ds", "--wait", "--target", "nan"], "0..100"),
    (["prestage", "ds", "--wait", "--target", "50%%"], "0..100"),
    (["prestage", "ds", "--parallel", "65"], "1..64"),
    (["ring", "--offset", "1"], "--locate"),
    (["ring", "--locate", "ds"], "NS/KEY"),
    (["stat", "ds"], "NS/KEY"),
    (["get", "/a"], "namespace"),
    (["get", ""], "namespace"),
    (["get", "ds/a", "--json"], "-o FILE"),
    (["ns", "drop", "ds"], "--yes"),
    (["completion", "tcsh"], "bash"),
    (["help", "xyzzy"], "xyzzy"),
    (["verify", "ds-noorigin"], "no origin"),
]


@pytest.mark.parametrize("argv,named", MISTAKES, ids=[" ".join(a)[:60] or "nothing" for a, _ in MISTAKES])
def test_mistakes_are_named(fake, argv, named):
    fake.namespace("ds", {"a": b"x"})
    fake.namespace("ds-noorigin")
    r = fake.fails(2, *argv)
    assert named in r.text
    assert r.out == "" or "--json" in argv
    # With --json the same is also an object.
    r = fake.fails(2, *argv, "--json") if argv[:1] != ["get"] else None
    if r:
        assert named in r.json["error"]["text"] and r.json["error"]["exit"] == 2


def test_options_before_between_and_after(fake):
    fake.namespace("ds", {"a": b"0123456789"})
    for argv in (["--timeout-ms", "7", "get", "ds/a", "--offset", "3"], ["get", "--offset=3", "--timeout-ms=7", "ds/a"],
                 ["get", "ds/a", "--offset", "3", "--timeout-ms", "7"],
                 ["--timeout-ms", "9", "get", "--timeout-ms", "7", "ds/a", "--offset", "3"]):
        assert fake.ok(*argv).stdout == b"3456789"
        assert "timeout_ms=7 " in [c for c in fake.calls() if c.startswith("fb_open")][-1]


def test_an_empty_peer_list_is_for_the_library_to_name(fake):
    fake.fails(2, "--peers", "", "status", FAKE_FAIL="fb_open:5009")
    assert fake.calls()[0].startswith("fb_open peers= ")


def test_options_inside_a_commands_name(fake):
    fake.namespace("ds")
    assert fake.ok("ns", "--json", "list").json["namespaces"][0]["name"] == "ds"
    assert fake.ok("--quiet", "ns", "--timeout-ms", "7", "list").out == "ds\n"
    assert "--xyzzy" in fake.fails(2, "ns", "--xyzzy", "list").text


def test_global_options_reach_the_library(fake):
    fake.ok("--peers", "h:1,h:2", "--config", "/c.yaml", "--timeout-ms", "5", "--any-peer", "status")
    assert fake.calls()[0] == "fb_open peers=h:1,h:2 config=/c.yaml timeout_ms=5 any_peer=1"


def test_double_dash_ends_options(fake):
    fake.namespace("ds", {"--json": b"dash"})
    assert fake.ok("get", "--", "ds/--json").stdout == b"dash"
    assert fake.fails(3, "get", "--", "--json/x").out == ""  # no JSON was asked for


def test_namespace_option_version_is_not_the_programs_version(fake):
    fake.ok("ns", "create", "v", "--derived", "--version", "2024")
    assert "version=2024" in fake.calls()[-1]


# ---- codes to exit statuses -------------------------------------------------------------------------------------

STATUSES = {
    1: [5, 12, 110001, 5011, 5012, 5013, 5019, 5020, 125],
    2: [22, 5003, 5004, 5005, 5006, 5007, 5009, 5010, 5021],
    3: [2, 20, 5001],
    4: [5017, 110, 111, 104, 113, 101],
    7: [13, 1, 17, 28, 122, 30, 24, 5002, 5008, 5014, 5015, 5016, 5018],
}


@pytest.mark.parametrize("status,code", [(s, c) for s, codes in STATUSES.items() for c in codes])
def test_exit_status_of_each_code(fake, status, code):
    fake.namespace("ds", {"a": b"x"})
    r = fake.fails(status, "stat", "ds/a", "--json", FAKE_FAIL="fb_stat:%d" % code)
    assert r.json["error"] == {"code": -code, "name": r.name, "text": r.text, "exit": status}
    assert r.text == "fb_stat was ordered to fail"


def test_no_peer_answers(fake):
    for argv in (["status"], ["ns", "list"], ["get", "ds/a"], ["prestage", "ds"], ["verify", "ds"], ["ring"]):
        assert fake.fails(4, *argv, FAKE_FAIL="fb_open:5017").name == "FB_EPEERDOWN"


def test_full_disk_behind_stdout(fake):
    fake.namespace("ds", {"a": b"x" * 100000})
    with open("/dev/full", "wb") as full:
        for argv in (["ls", "ds"], ["status"], ["status", "--json"], ["--help"], ["get", "ds/a"]):
            p = fake.popen(*argv, stdout=full, stderr=subprocess.PIPE)
            _, err = p.communicate(timeout=60)
            assert p.returncode in (1, 7) and b"No space left" in err, (argv, p.returncode, err)
