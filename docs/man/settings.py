#!/usr/bin/python3
"""settings.py - makes docs/man/forebayd.yaml.5 and deploy/forebayd.yaml from the daemon's own table of settings.

usage: settings.py [--check] FOREBAYD

Writes both files; with --check it writes nothing, and exits 1 with a sentence for each that is out of step. (A setting is
a row of server/conf.def; `forebayd --help-config` and `--dump-config` print the rows.)
"""

import os
import re
import subprocess
import sys

REPO = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
PAGE = os.path.join(REPO, "docs", "man", "forebayd.yaml.5")
EXAMPLE = os.path.join(REPO, "deploy", "forebayd.yaml")

HEAD = r""".\" Made by docs/man/settings.py: do not edit.
.TH FOREBAYD.YAML 5 "" "forebay 0.1.0" "File Formats"
.SH NAME
forebayd.yaml \- settings of a peer of the Forebay cluster cache
.SH DESCRIPTION
A YAML file of sections, each a mapping of names to values; the setting
.B log.level
is the value of
.B level
in the section
.BR log .
Every setting may be left out; then its default holds.
Sizes are bytes, and may be written with KiB, MiB, GiB or TiB.
.PP
An unknown key, a wrong type or a value out of its range stops the start of
.BR forebayd (8)
with file, line, key and what would be accepted.
.B forebayd \-\-check\-config
.I FILE
tells beforehand.
.PP
Peers of one cluster have the same
.B cluster.slots
and
.BR cluster.members ;
peers whose rings differ refuse each other's requests.
.SH EXAMPLE
.nf
peer:
  name: node1
  listen: 0.0.0.0:7401
cluster:
  members:
    - {name: node1, address: node1:7401, domain: rack1}
    - {name: node2, address: node2:7401, domain: rack2}
    - {name: node3, address: node3:7401, domain: rack3, weight: 200}
ram:
  max_bytes: 64GiB
origin:
  roots: [/mnt/datasets]
.fi
.SH SETTINGS
"""

FOOT = r""".SH SEE ALSO
.BR forebay (1),
.BR forebayd (8)
"""

EXAMPLE_HEAD = """# forebayd.yaml - every setting of forebayd with its default: what `forebayd --dump-config` prints.
# Made by docs/man/settings.py. A setting that is left out has its default, so a real file is short: forebayd.yaml(5).
"""


def settings(text):
    """[(key, what is accepted, meaning)] from --help-config: a key, then indented lines, of which the meaning begins at
    the first that starts like a sentence."""
    found = []
    for block in re.split(r"\n(?=\S)", text.strip("\n")):
        key, *lines = block.split("\n")
        lines = [line.strip() for line in lines]
        at = next(i for i, line in enumerate(lines) if i > 0 and line[:1].isupper())
        found.append((key, " ".join(lines[:at]), " ".join(lines[at:])))
    return found


def roff(text):
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    return r"\&" + text if text.startswith((".", "'")) else text


def page(help_text):
    out = [HEAD]
    for key, accepted, meaning in settings(help_text):
        out.append(".TP\n.B %s\n%s\n.br\n.I %s\n" % (roff(key), roff(meaning), roff(accepted)))
    return "".join(out) + FOOT


def main():
    check, args = "--check" in sys.argv[1:], [a for a in sys.argv[1:] if a != "--check"]
    if len(args) != 1:
        sys.exit(__doc__)

    def run(option):
        return subprocess.run([args[0], option], stdout=subprocess.PIPE, check=True, encoding="utf-8").stdout

    wrong = 0
    for path, text in ((PAGE, page(run("--help-config"))), (EXAMPLE, EXAMPLE_HEAD + run("--dump-config"))):
        try:
            with open(path, encoding="utf-8") as f:
                old = f.read()
        except FileNotFoundError:
            old = None
        if old == text:
            continue
        if check:
            print("%s is out of step with server/conf.def: run docs/man/settings.py build/forebayd" %
                  os.path.relpath(path, REPO))
            wrong = 1
        else:
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
