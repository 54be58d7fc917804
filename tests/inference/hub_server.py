"""A local HTTP server that answers huggingface_hub's downloads like the Hugging Face hub.

It sends the description of a repository, the list of its files, and each file with its ETag and commit, as documented
in https://huggingface.co/docs/hub/api. Errors have the header X-Error-Code. huggingface_hub uses the server if the
environment variable HF_ENDPOINT holds its address.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Repositories = dict[str, dict[str, bytes]]  # hub id -> file name -> content


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repositories: Repositories
    gated: set[str]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        owner, name, *subpath = path.removeprefix("api/models/").split("/")
        hub_id = f"{owner}/{name}"
        if hub_id not in self.repositories:
            self.fail(401, "RepoNotFound")
        elif subpath[1:2] not in ([], ["main"], [COMMIT]):
            self.fail(404, "RevisionNotFound")
        elif path.startswith("api/models/"):
            self.describe(hub_id, subpath)
        elif hub_id in self.gated:
            self.fail(403, "GatedRepo")
        else:
            self.send_file(hub_id, "/".join(subpath[2:]))

    do_HEAD = do_GET

    def describe(self, hub_id: str, subpath: list[str]) -> None:
        """Answers with the list of files if the path ends with tree/REVISION, else with the model's description."""
        files = self.repositories[hub_id]
        if subpath[:1] == ["tree"]:
            entries = [
                {"type": "file", "path": name, "size": len(files[name]), "oid": oid(files[name])} for name in files
            ]
            self.answer(200, json.dumps(entries).encode())
        else:
            siblings = [{"rfilename": name} for name in files]
            model = {"id": hub_id, "modelId": hub_id, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            self.answer(200, json.dumps(model).encode())

    def send_file(self, hub_id: str, name: str) -> None:
        content = self.repositories[hub_id].get(name)
        if content is None:
            self.fail(404, "EntryNotFound")
        else:
            self.answer(200, content, {"ETag": f'"{oid(content)}"', "X-Repo-Commit": COMMIT})

    def fail(self, status: int, code: str) -> None:
        self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": f"{code} for {self.path}"})

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Logs nothing: the base class would write every request to the standard error stream."""


def oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serve(repositories: Repositories, gated: set[str]) -> Iterator[str]:
    """Runs a server with these repositories and yields its address. It refuses the files of the hub ids in `gated`."""
    handler = type("Hub", (Handler,), {"repositories": repositories, "gated": gated})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
