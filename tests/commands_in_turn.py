"""Run commands of JSON from stdin in one process, one after another, and tell how each ended.

Used by tests as `python tests/commands_in_turn.py NOFILE FSIZE`: open files and bytes of a file at most, 0 for any.
"""

from __future__ import annotations

import json
import resource
import sys

from click.testing import CliRunner

from cinecube.cli import main


def run(words: list[str]) -> dict[str, object]:
    result = CliRunner().invoke(main, words)
    raised = result.exception
    return {
        "code": result.exit_code,
        "out": result.stdout,
        "err": result.stderr,
        "raised": None if raised is None or isinstance(raised, SystemExit) else repr(raised),
    }


if __name__ == "__main__":
    commands = json.load(sys.stdin)
    run(["--help"])  # what is imported first is not what is tried
    for kind, limit in zip((resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE), map(int, sys.argv[1:]), strict=True):
        if limit:
            resource.setrlimit(kind, (limit, limit))
    sys.stdout.write(json.dumps([run(words) for words in commands]))
