"""The server's own main over the fake engine, as a process: `python -m tests.server.echo_server [flags]`.

ECHO_HOLDS names a verb of the engine (compile, encode, step) in which it stays for ever.
"""

import os
import threading

from bart_server.__main__ import main
from bart_server.services.models import Served
from bart_server.services.text import Text

from support.echo import FakeEngine
from support.tokenizer import byte_tokenizer


def hold(verb, requests):
    if verb == os.environ.get("ECHO_HOLDS"):
        threading.Event().wait()


def load(config, metrics, stop):
    engine = FakeEngine(on_call=hold)
    engine.compile(stop)
    return [Served("echo", engine, Text(byte_tokenizer(), 64))]


if __name__ == "__main__":
    main(load)
