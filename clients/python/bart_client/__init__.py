"""Client of the BART gRPC server.

    from bart_client import Client

    with Client("localhost:50051") as client:
        print(client.summarize("A long text. …", num_beams=4).text)

`AsyncClient` is the same for asyncio. Options have Hugging Face's names; one that is not given has the checkpoint's
default, None switches it off. Calls that the server refuses for lack of room are tried again with growing pauses,
within the call's timeout; whatever fails in the end raises BartError.
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
