"""The independent implementation of placement agrees with the committed answers (which test_golden holds ours to)."""
import pathlib
import subprocess
import sys

CHECK = pathlib.Path(__file__).resolve().parent.parent / "golden" / "check_ring.py"


def test_golden_answers_are_reproduced():
    done = subprocess.run([sys.executable, str(CHECK)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ring.json") == 6
    assert done.stdout.count("ok hash.json") == 26
