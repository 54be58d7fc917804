"""Client of the BART gRPC server.

    from bart_client import Client

    with Client("localhost:50051") as client:
        print(client.summarize("A long text. …", num_beams=4).text)

`AsyncClient` has the same methods for asyncio. Generation options have Hugging Face's names; an option that is absent
has the checkpoint's default, and None switches it off. A call that an overloaded or unavailable server refuses is tried
up to five times, with growing pauses, within the call's timeout. A call that fails raises BartError.
"""

from bart_client.aio import AsyncClient, AsyncStream
from bart_client.channel import Security
from bart_client.client import Client, Stream
from bart_client.errors import BartError
from bart_client.results import Generated, Label, Labels, Scored, Sequence, Summary, Usage, Window

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "BartError",
    "Client",
    "Generated",
    "Label",
    "Labels",
    "Scored",
    "Security",
    "Sequence",
    "Stream",
    "Summary",
    "Usage",
    "Window",
]
