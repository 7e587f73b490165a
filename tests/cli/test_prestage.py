"""prestage, and the progress line: on a terminal one line that is redrawn, elsewhere plain lines."""

import re
import signal
import subprocess

import cluster as lib
import pytest

LINE = re.compile(r"ds +(\d+|\?)%(?: \[=* *\])? +\S+ \w+/\S+ \w+\+?  (\d+)/(\d+)\+? files  \S+ \w+/s  ETA \S+")


@pytest.fixture
def data(fake):
    fake.namespace("ds", {"a": b"x" * 1000, "b": b"y" * 3000, "c/d": b"z" * 4000})
    return fake


def test_background(data):
    r = data.ok("prestage", "ds/train/**", "--parallel", "5")
    assert "goes on by itself" in r.out and r.err == ""
    assert data.calls()[-1] == "fb_prestage ds 'train/**' background=1 parallel=5"
    assert data.ok("prestage", "ds", "--json").json == {"namespace": "ds", "pattern": "", "background": True}
    assert data.ok("prestage", "ds", "-q").out == ""


def test_wait(data):
    r = data.ok("prestage", "ds", "--wait")
    assert "fb_prestage ds '' background=0 parallel=0" in data.calls()
    assert "7.8 KiB of 7.8 KiB resident and verified (100.00%), 3 of 3 files" in r.out
    j = data.ok("prestage", "ds", "--wait", "--json").json
    assert j == {"namespace": "ds", "pattern": "", "background": False, "done": True, "target_percent": 100,
                 "resident_percent": 100, "files_total": 3, "bytes_total": 8000, "files_resident": 3,
                 "bytes_resident": 8000, "bytes_from_origin": 8000, "files_failed": 0, "elapsed_ns": 750000000}


@pytest.mark.parametrize("resident,target,status", [(100, None, 0), (99, None, 5), (50, "50", 0), (50, "50.01%", 5),
                                                    (0, "0", 0), (0, "1", 5), (99, "99", 0), (100, "100", 0)])
def test_target(data, resident, target, status):
    argv = ["prestage", "ds", "--wait", "--json"] + (["--target", target] if target else [])
    r = data(*argv, FAKE_RESIDENT=resident)
    assert r.returncode == status, r
    assert r.json["bytes_resident"] == 80 * resident
    if status:
        assert r.json["error"]["name"] == "FB_EBELOWTARGET" and r.json["error"]["exit"] == 5
        assert "%.2f%%" % resident in r.err and "(FB_EBELOWTARGET)" in r.err


def test_failures_are_told_as_one_line_each(data):
    r = data.fails(5, "prestage", "ds", "--wait", FAKE_RESIDENT=50)
    assert "bad\\x0akey: Input/output error\n" in r.err and "1 files failed" in r.text


def test_an_empty_file_that_failed_is_below_target(fake):
    fake.namespace("ds", {"empty": b"", "full": b"x"})
    # FAKE_RESIDENT=99 of one byte rounds down to none; of two files to one: either is below.
    assert fake.fails(5, "prestage", "ds", "--wait", FAKE_RESIDENT=99).name == "FB_EBELOWTARGET"
    fake.namespace("zeros", {"a": b"", "b": b""})
    assert fake.fails(5, "prestage", "zeros", "--wait", FAKE_RESIDENT=50).name == "FB_EBELOWTARGET"
    fake.ok("prestage", "zeros", "--wait")


def test_nothing_to_do(fake):
    fake.namespace("ds", {})
    assert fake.ok("prestage", "ds", "--wait", "--json").json["resident_percent"] == 100
    assert "nothing*" in fake.fails(3, "prestage", "ds/nothing*", "--wait").text
    assert fake.fails(3, "prestage", "nope", "--wait").name == "FB_ENONS"


def test_a_run_that_breaks_off_tells_how_far_it_came(data):
    r = data.fails(4, "prestage", "ds", "--wait", "--json", FAKE_FAIL="fb_prestage:5017")
    assert r.json["done"] is False and r.json["bytes_resident"] == 5333 and r.json["error"]["exit"] == 4
    assert data.fails(4, "prestage", "ds", "--wait", FAKE_FAIL="fb_prestage:5017").out.startswith("stopped: 5.2 KiB of")


def test_interrupt(data):
    p = data.popen("prestage", "ds", "--wait", env={"FAKE_STEPS": "1000", "FAKE_STEP_MS": "20"}, stdout=subprocess.PIPE,
                   stderr=subprocess.PIPE)
    first = p.stderr.readline()  # progress has begun, so the handler is there
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 1 and b"what is resident stays" in err and out.startswith(b"stopped: "), (first, out, err)


# ---- the progress line ------------------------------------------------------------------------------------------


def test_plain_lines(data):
    r = data.ok("prestage", "ds", "--wait", FAKE_STEPS=50)
    lines = r.err.splitlines()
    assert len(lines) == 2 and all(LINE.fullmatch(line) for line in lines), lines  # the first and the last
    assert LINE.fullmatch(lines[1]).groups() == ("100", "3", "3")
    assert "\r" not in r.err and "\x1b" not in r.err
    assert data.ok("prestage", "ds", "--wait", "-q").err == ""


@pytest.mark.parametrize("columns", [200, 80, 60, 40, 10, 1])
def test_bar_fits_the_terminal(data, terminal, columns):
    status, text = terminal("prestage", "ds", "--wait", "--json", columns=columns, FAKE_STEPS=4, FAKE_STEP_MS=120)
    assert status == 0
    drawn = [p for p in re.split(rb"\r", text.decode().encode()) if b"\x1b[K" in p]
    shown = [p.split(b"\x1b[K")[0].decode() for p in drawn]
    assert len(shown) >= 3 and all(len(line) < columns or columns == 1 for line in shown), shown
    if columns >= 80:
        assert all(LINE.fullmatch(line) and "[" in line for line in shown), shown
        percents = [int(LINE.fullmatch(line).group(1)) for line in shown]
        assert percents == sorted(percents) and percents[-1] == 100
        assert re.search(r"\[=+ +\]", shown[0]) and re.search(r"\[=+\]", shown[-1])
    elif columns >= 60:
        assert all(line.startswith("ds ") and "[" not in line for line in shown)


def test_failure_lines_do_not_mix_with_the_bar(data, terminal):
    status, text = terminal("prestage", "ds", "--wait", FAKE_RESIDENT=50, FAKE_STEP_MS=120)
    assert status == 5
    assert b"\r\x1b[Kbad\\x0akey: Input/output error\r\n" in text


def test_dumb_terminal_gets_plain_lines(data, terminal):
    status, text = terminal("prestage", "ds", "--wait", TERM="dumb")
    assert status == 0 and b"\x1b" not in text


def test_a_second_interrupt_ends_the_program(data):
    p = data.popen("prestage", "ds", "--wait", env={"FAKE_STEPS": "2", "FAKE_STEP_MS": "60000"}, stderr=subprocess.PIPE,
                   stdout=subprocess.DEVNULL)
    lib.wait_until(lambda: "step 1" in data.calls(), what="the first message")
    p.send_signal(signal.SIGINT)
    # The fake sleeps until its next message, so the signal is only noted; that it was is seen by the handler's going.
    lib.wait_until(lambda: sigint_is_default(p.pid), what="the handler has run")
    p.send_signal(signal.SIGINT)
    assert p.wait(30) == -signal.SIGINT
    p.stderr.close()


def sigint_is_default(pid):
    with open("/proc/%d/status" % pid, encoding="ascii") as f:
        caught = int(re.search(r"SigCgt:\s*([0-9a-f]+)", f.read()).group(1), 16)
    return not caught & 1 << (signal.SIGINT - 1)
