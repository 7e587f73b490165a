#!/usr/bin/python3
"""count.py - how many test cases a JUnit file tells of: prints "PASSED FAILED SKIPPED".

A ctest file has one entry for each program; a cmocka program says itself how many cases it ran, so those are counted
instead. A program that failed without naming a failed case (a crash, a sanitizer's report) is one failure more.
"""

import re
import sys
import xml.etree.ElementTree as ET

CMOCKA_PASSED = re.compile(r"^\[  PASSED  \] (\d+) test\(s\)\.", re.M)
CMOCKA_FAILED = re.compile(r"^\[  FAILED  \] (\d+) test\(s\), listed below", re.M)
CMOCKA_SKIPPED = re.compile(r"^\[  SKIPPED \] (\d+) test\(s\), listed below", re.M)


def count_case(case):
    skipped = case.find("skipped") is not None or case.get("status") in ("notrun", "disabled")
    failed = case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail"
    output = "".join(e.text or "" for e in case.findall("system-out"))
    p, f, s = (sum(int(n) for n in r.findall(output)) for r in (CMOCKA_PASSED, CMOCKA_FAILED, CMOCKA_SKIPPED))
    if p + f + s == 0 or case.get("file") is not None:
        return (0, 1, 0) if failed else (0, 0, 1) if skipped else (1, 0, 0)
    if failed and f == 0:
        f = 1
    return p, f, s


def main(argv):
    total = [0, 0, 0]
    for path in argv[1:]:
        for case in ET.parse(path).getroot().iter("testcase"):
            total = [a + b for a, b in zip(total, count_case(case))]
    print(*total)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
