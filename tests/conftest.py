"""Fixtures for tests/system, tests/cli and tests/fault: clusters that are called to account at the end of each test,
origin directories, small file systems, and a time limit for every test. tests/lib/cluster.py says how to use them.

Marks: `slow` (left out by --quick), `release_only` (not run against sanitizer builds), `no_tsan` (not against
ThreadSanitizer's, where everything takes long: its threads meet in other tests as well), `limit(seconds)` (instead of
the 120 s that a test may take; scaled for sanitizer builds).
"""

import os
import signal
import sys
import zlib

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import cluster as lib  # noqa: E402

DEFAULT_LIMIT_S = 120


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: left out of quick runs")
    config.addinivalue_line("markers", "release_only: not run against sanitizer builds")
    config.addinivalue_line("markers", "no_tsan: not run against the ThreadSanitizer build")
    config.addinivalue_line("markers", "limit(seconds): how long the test may take")


def pytest_report_header(config):
    return "binaries: %s" % lib.BUILD


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """Ends a test that hangs, its fixtures included, so that a run has an end and its peers are judged."""
    mark = item.get_closest_marker("limit")
    seconds = (mark.args[0] if mark else DEFAULT_LIMIT_S) * lib.SLOWNESS

    def too_long(_signum, _frame):
        raise TimeoutError("the test took longer than %d s" % seconds)

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for c in getattr(item, "_clusters", []):
            report.sections.append(("peers", c.logs()))


@pytest.fixture
def make_cluster(request):
    """make_cluster(n, roots=[...], **conf) -> Cluster; any number of them per test."""
    made = request.node._clusters = []

    def make(*args, **kwargs):
        made.append(lib.Cluster(*args, **kwargs))
        return made[-1]

    yield make
    wrong = []
    for c in made:
        try:
            c.close()
        except lib.ClusterError as e:
            wrong.append(str(e))
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.fixture
def origin(tmp_path, request):
    """An empty origin directory whose contents are drawn from the test's name."""
    tmp_path.chmod(0o755)
    return lib.Origin(tmp_path / "origin", seed=zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def make_tmpfs():
    """make_tmpfs(size_bytes) -> Tmpfs; skips the test where mounting is not allowed."""
    made = []

    def make(size_bytes):
        try:
            made.append(lib.Tmpfs(size_bytes))
        except PermissionError as e:
            pytest.skip("cannot mount: %s" % e)
        return made[-1]

    yield make
    for t in made:
        t.close()
