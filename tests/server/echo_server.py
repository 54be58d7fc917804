"""The server's own main over the fake engine, as a process: `python -m tests.server.echo_server [flags]`.

ECHO_HOLDS names a verb of the engine (compile, encode, step) in which it stays for ever.
"""

import os
import threading

from bart_server.__main__ import main

from support.echo import FakeEngine
from support.tokenizer import byte_tokenizer


def hold(verb, requests):
    if verb == os.environ.get("ECHO_HOLDS"):
        threading.Event().wait()


def load(settings, path):
    return FakeEngine(on_call=hold), byte_tokenizer()


if __name__ == "__main__":
    os.environ["BART_SERVER_MODEL"] = "echo=echo"
    main(load)
