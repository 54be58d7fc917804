"""BART as a service: `python -m bart_server` over gRPC, or `Runtime(Settings())` within another program.

The path of one parameter, `options.num_beams` of `Summarize`, from the network to the device, and back. Each file is
listed once; "Back" says what it does with the answer.

    transport/grpc_server.py    bytes become a SummarizeRequest, the deadline and the token's owner a Call.
                                Back: the response becomes bytes; an error becomes a status with trailers.
    runtime.py                  `call` hands both to the services; `observe` counts, logs and traces the call.
    services/methods.py         looks up the method's function by its name, here SummarizationService.summarize.
    services/summarization.py   model, fields and sizes are checked, places are taken, answers are awaited.
    services/conversion.py      `options` makes {"num_beams": 4} of the message.
                                Back: `summary` makes the response of the hypotheses that the engine returned.
    services/backend.py         `plan` tokenizes the text and asks the engine for requests, rows of work.
    engine/engine.py            `requests` checks the ids and asks the task.
    engine/tasks/generate.py    `requests` refuses a width that is not compiled, and lists the buckets that can hold it.
                                Later its programs run: encode, insert, step with 4 beams a row, results.
    scheduling/session.py       `submit` takes the request across to the scheduler's threads.
                                Back: events from the worker's thread wake the service's function on the event loop.
    scheduling/scheduler.py     the request waits in its bucket's queue, gets a row, is decoded a chunk at a time.
                                Back: `_answer_finished` delivers the hypotheses of rows that are finished.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bart_server.runtime import Runtime
    from bart_server.scheduling.errors import RequestError
    from bart_server.services.call import Call
    from bart_server.settings import Settings

__all__ = ["Call", "RequestError", "Runtime", "Settings"]
MODULES = {"Call": "services.call", "RequestError": "scheduling.errors", "Runtime": "runtime", "Settings": "settings"}


def __getattr__(name: str) -> Any:
    """Imports the module of a public name at its first use, so that `--help` imports neither jax nor grpc."""
    if name not in MODULES:
        raise AttributeError(f"module 'bart_server' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bart_server.{MODULES[name]}"), name)
