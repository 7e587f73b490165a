"""The bash completion script, sourced and asked as bash asks it. It must never hang, print, or run what a name says."""

import os
import shlex
import shutil
import subprocess
import time

import cluster as lib
import pytest
from conftest import BINARY, COMMANDS

SCRIPT = os.path.join(lib.REPO, "deploy/completion/forebay.bash")


@pytest.fixture
def complete(fake, tmp_path):
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    os.symlink(BINARY, bin_ / "forebay")

    def run(line, words=None, **env):
        """The answers to TAB at the end of `line`, with the words that bash would make of it."""
        words = words or (line + "|").split()
        words[-1] = words[-1].rstrip("|")
        setup = "COMP_LINE=%s COMP_POINT=%d COMP_CWORD=%d COMP_WORDS=(%s)" % (
            shlex.quote(line), len(line), len(words) - 1, " ".join(map(shlex.quote, words)))
        e = fake.env(env)
        e["PATH"] = "%s:%s" % (bin_, e["PATH"])
        p = subprocess.run(["bash", "--norc", "-c", "source %s; %s; _forebay; printf '%%s\\n' \"${COMPREPLY[@]}\"" %
                            (shlex.quote(SCRIPT), setup)], env=e, cwd=fake.cwd, capture_output=True, check=False,
                           timeout=60)
        assert p.returncode == 0 and p.stderr == b"", p
        return p.stdout.decode().split("\n")[:-1] if p.stdout.strip() else []

    return run


def test_script_is_what_the_table_says(fake):
    with open(SCRIPT, encoding="utf-8") as f:
        assert fake.ok("completion", "bash").out == f.read(), "build/forebay completion bash >deploy/completion/forebay.bash"


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck here")
def test_script_is_clean():
    assert subprocess.run(["shellcheck", "-s", "bash", SCRIPT], capture_output=True, check=False).stdout == b""


def test_commands(complete):
    first = list(dict.fromkeys(c.split()[0] for c in COMMANDS))
    assert complete("forebay ") == first
    assert complete("forebay st") == ["status", "stat"]
    assert complete("forebay --json pre") == ["prestage"]
    assert complete("forebay --timeout-ms 5 pre") == ["prestage"]
    assert complete("forebay ns ") == ["create", "list", "show", "drop"]
    assert complete("forebay help pr") == ["prestage"]
    assert complete("forebay completion ") == ["bash"]
    assert complete("forebay xyzzy ") == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_offered(fake, complete, command):
    help_ = fake.ok(*command.split(), "--help").out
    for option in complete("forebay %s --" % command):
        assert option in help_
    assert {"--json", "--help", "--peers"} <= set(complete("forebay %s --" % command))


def test_options_and_their_values(complete):
    assert complete("forebay ns create x --ac") == ["--ack"]
    assert complete("forebay ns create x --ack ") == ["ram", "origin"]
    assert complete("forebay ns create x --ack o") == ["origin"]
    assert complete("forebay get --offset ") == []
    assert complete("forebay prestage ds --w") == ["--wait"]
    assert complete("forebay prestage --w") == ["--wait"]


def test_namespaces_and_keys(fake, complete):
    fake.namespace("ds", {"a.txt": b"", "train/000.tar": b"", "train/001.tar": b""})
    fake.namespace("derived")
    assert complete("forebay ns show d") == ["derived", "ds"]
    assert complete("forebay ns drop ds") == ["ds"]
    assert complete("forebay get d") == ["derived/", "ds/"]
    assert complete("forebay get ds/") == ["ds/a.txt", "ds/train/"]
    assert complete("forebay get ds/train/") == ["ds/train/000.tar", "ds/train/001.tar"]
    assert complete("forebay get ds/train/001") == ["ds/train/001.tar"]
    assert complete("forebay ring --locate ds/a") == ["ds/a.txt"]
    assert complete("forebay put derived/x ") == []  # a local file: bash's own completion
    assert complete("forebay get ds/nope/") == [] and complete("forebay get nope/") == []


def test_peers_of_the_line_are_asked(fake, complete):
    fake.namespace("ds")
    words = ["forebay", "--peers", "h", ":", "1,h", ":", "2", "ns", "show", ""]  # as bash cuts it
    assert complete("forebay --peers h:1,h:2 ns show ", words) == ["ds"]
    assert any(c.startswith("fb_open peers=h:1,h:2 ") and "timeout_ms=1500" in c for c in fake.calls())
    complete("forebay --peers=h:3 ns show ", ["forebay", "--peers", "=", "h", ":", "3", "ns", "show", ""])
    assert any(c.startswith("fb_open peers=h:3 ") for c in fake.calls())


def test_names_with_colons(fake, complete):
    fake.namespace("ds", {"a:b=1": b"", "a:b=2": b""})
    assert complete("forebay get ds/a:b", ["forebay", "get", "ds/a", ":", "b"]) == ["b=1", "b=2"]
    assert complete("forebay get ds/a:b=", ["forebay", "get", "ds/a", ":", "b", "="]) == ["1", "2"]


def test_names_are_not_run(fake, complete):
    fake.namespace("ds", {"$(touch pwned)": b"", "`touch pwned`": b"", "; touch pwned": b""})
    fake.namespace("$(touch pwned)")
    complete("forebay get ")
    complete("forebay ns show ")
    answers = complete("forebay get ds/")
    assert len(answers) == 3 and list(fake.cwd.iterdir()) == []
    assert subprocess.run(["bash", "-c", "printf '%s\\n' " + " ".join(answers)], cwd=fake.cwd, capture_output=True,
                          check=True).stdout.decode().split("\n")[:3] == ["ds/$(touch pwned)", "ds/; touch pwned",
                                                                         "ds/`touch pwned`"]
    assert list(fake.cwd.iterdir()) == []


def test_never_hangs_nor_complains(fake, complete):
    fake.namespace("ds")
    start = time.monotonic()
    assert complete("forebay ns show ", FAKE_STEP_MS=60000) == []
    assert time.monotonic() - start < 20
    assert complete("forebay ns show ", FAKE_FAIL="fb_open:5017") == []
    assert complete("forebay get ds/", FAKE_FAIL="fb_list:5017,fb_stat:5017") == []
