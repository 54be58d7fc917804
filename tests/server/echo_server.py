"""Runs the server's real `main` with a fake engine: `python -m tests.server.echo_server [flags]`.

The environment variable ECHO_HOLDS names a method of the engine (compile, encode or step) that then never returns.
ECHO_SAYS is a text that is written to standard error as C++ code does it, without Python's logging. ECHO_REVISION names
a file that holds the name of the engine's revision.
"""

import os
import pathlib
import threading

from bart_server.__main__ import main

from support.echo import FakeEngine
from support.tokenizer import byte_tokenizer


def hold(verb, requests):
    if verb == os.environ.get("ECHO_HOLDS"):
        threading.Event().wait()


def load(settings, path):
    if "ECHO_SAYS" in os.environ:
        os.write(2, os.environ["ECHO_SAYS"].encode())
    revision = pathlib.Path(os.environ["ECHO_REVISION"]).read_text() if "ECHO_REVISION" in os.environ else "fake:echo"
    return FakeEngine(on_call=hold, revision=revision), byte_tokenizer()


if __name__ == "__main__":
    os.environ["BART_SERVER_MODEL"] = "echo=echo"
    main(load)
