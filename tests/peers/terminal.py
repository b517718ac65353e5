"""Runs commands on a terminal of their own and prints what each wrote to it, as JSON.

Arguments: a file with a JSON list of command lines. Output: a list of {"status", "written"}, bytes as Latin-1 text.
"""

import json
import os
import pty
import subprocess
import sys


def on_a_terminal(command):
    ours, theirs = pty.openpty()
    environment = dict(os.environ, TERM="xterm-256color")
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    while True:
        try:
            chunk = os.read(ours, 1 << 16)
        except OSError:  # Linux's end of a terminal that no process has open
            break
        if not chunk:
            break
        written += chunk
    os.close(ours)
    return {"status": process.wait(), "written": written.decode("latin-1")}


print(json.dumps([on_a_terminal(command) for command in json.loads(open(sys.argv[1]).read())]))
