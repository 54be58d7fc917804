"""The server's settings: every field is a flag, an environment variable BART_SERVER_… and a line of the start-up log.

A flag wins over the environment, the environment over the default. Everything is checked before anything is loaded.
"""

import argparse
import dataclasses
import ipaddress
import os
import pathlib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

EMBEDDED = "embedded"  # the path that means the checkpoint that comes with the package
PREFIX = "BART_SERVER_"


class SettingsError(ValueError):
    """A setting that cannot be. The message names the flag, the limit and the value."""


def setting(default: Any, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Settings:
    """See each field's help."""

    model: tuple[str, ...] = setting(
        (f"debian-tiny={EMBEDDED}",), "NAME=PATH of a checkpoint folder or hub id; repeatable, the first is the default"
    )
    adapter: tuple[str, ...] = setting(
        (), "NAME=PATH of a LoRA adapter's folder or hub id, merged into the model of that name; repeatable"
    )
    host: str = setting("localhost", "address to listen on; beyond loopback only with TLS or --insecure")
    port: int = setting(50051, "port to listen on; 0 takes a free one")
    metrics: str = setting("localhost:9464", "HOST:PORT of the Prometheus metrics, or off")

    platform: str = setting("cpu", "the device's platform: cpu, tpu or cuda; never another one instead")
    dtype: str = setting("float32", "float32 (exact to PyTorch) or bfloat16 (for speed on TPU and GPU)")
    beams: tuple[int, ...] = setting((1, 4), "beam widths to compile, comma-separated; others are refused")
    sampling_beams: tuple[int, ...] = setting(
        (1,), "beam widths to compile for sampling too (one source length); empty: none"
    )
    sources: tuple[int, ...] = setting((), "source lengths to compile; empty: a quarter and all of the model's")
    target: int = setting(
        0, "longest answer, start token included; 0: the checkpoint's default and half of it, rounded up"
    )
    rows: tuple[int, ...] = setting(
        (1, 8), "row counts to compile, a device; the last is how many a worker runs at once"
    )
    workers: int = setting(2, "batches at once: the device computes one while the host is busy with another")
    chunk: int = setting(8, "decode steps between two looks at the queue")
    compile_cache: str = setting(
        "~/.cache/bart_server", "folder of compiled programs, for quick restarts; trusted like code; or off"
    )

    max_requests: int = setting(256, "requests in work at once, waiting ones included")
    max_cost: int = setting(1_000_000, "their estimated padded tokens x beams")
    max_message_bytes: int = setting(4 << 20, "size of one request message")
    max_text_bytes: int = setting(200_000, "size of one text in UTF-8")
    max_windows: int = setting(32, "windows of one long text")
    max_batch_items: int = setting(64, "texts of one BatchSummarize")
    max_labels: int = setting(64, "labels of one ClassifyZeroShot")
    max_label_bytes: int = setting(400, "size of one label within the template")
    tokenizer_threads: int = setting(2, "threads that tokenize")

    tls_cert: str = setting("", "PEM file with the server's certificate chain")
    tls_key: str = setting("", "PEM file with its key")
    tls_client_ca: str = setting("", "PEM file with the authorities of client certificates, which are then required")
    token_file: str = setting("", "file with one accepted bearer token a line")
    insecure: bool = setting(False, "listen beyond loopback without TLS")

    grace: float = setting(30.0, "seconds that requests in work get after SIGTERM")
    max_connection_age: float = setting(0.0, "seconds after which clients are asked to reconnect; 0: never")
    keepalive: float = setting(
        30.0, "seconds of silence after which a connection is probed; dead a third of that later"
    )
    log_level: str = setting("info", "debug, info, warning or error")
    trace: bool = setting(False, "export OpenTelemetry traces (needs the otel extra)")

    def __post_init__(self) -> None:
        check(self)

    def models(self) -> dict[str, str]:
        """Name to path."""
        return dict(entry.split("=", 1) for entry in self.model)

    def adapter_of(self, path: str) -> str | None:
        """The path of the adapter that is merged into the checkpoint at `path`."""
        adapters = dict(entry.split("=", 1) for entry in self.adapter)
        return next((adapters[name] for name, base in self.models().items() if base == path and name in adapters), None)


def check(settings: Settings) -> None:
    """Raises SettingsError for the first setting that cannot be."""
    names = [entry.partition("=")[0] for entry in settings.model]
    for entry in settings.model:
        name, separator, path = entry.partition("=")
        need(bool(name and separator and path), "model", entry, "NAME=PATH")
    need(bool(names) and len(set(names)) == len(names), "model", names, "at least one, all of different names")
    adapted = [entry.partition("=")[0] for entry in settings.adapter]
    for entry in settings.adapter:
        name, separator, path = entry.partition("=")
        need(bool(separator and path) and name in names, "adapter", entry, "NAME=PATH with the name of a model")
        base = settings.models()[name]
        alone = list(settings.models().values()).count(base) == 1
        need(alone, "adapter", entry, f"of a model that shares {base} with no other: make the adapter's folder a model")
    need(len(set(adapted)) == len(adapted), "adapter", adapted, "at most one for each model")
    need(0 <= settings.port <= 65535, "port", settings.port, "between 0 and 65535")
    need(settings.platform in ("cpu", "tpu", "cuda"), "platform", settings.platform, "cpu, tpu or cuda")
    need(settings.dtype in ("float32", "bfloat16"), "dtype", settings.dtype, "float32 or bfloat16")
    need(settings.log_level in ("debug", "info", "warning", "error"), "log_level", settings.log_level, "a level")
    for name in ("beams", "sampling_beams", "rows", "sources"):
        values = getattr(settings, name)
        need(
            values == tuple(sorted(set(values))) and all(v > 0 for v in values), name, values, "positive and ascending"
        )
    need(
        bool(settings.beams) and bool(settings.rows),
        "beams and rows",
        (settings.beams, settings.rows),
        "at least one each",
    )
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if (field.name.startswith("max_") and field.type is int) or field.name in (
            "chunk",
            "workers",
            "tokenizer_threads",
        ):
            need(value > 0, field.name, value, "positive")
        if field.name == "keepalive":
            need(value >= 1, field.name, value, "at least 1")
        if field.type is float or field.name == "target":
            need(0 <= value < 1e6, field.name, value, "at least 0")
    need(
        bool(settings.tls_cert) == bool(settings.tls_key),
        "tls_cert",
        settings.tls_cert,
        "given together with --tls-key",
    )
    need(
        not settings.tls_client_ca or bool(settings.tls_cert),
        "tls_client_ca",
        settings.tls_client_ca,
        "given with --tls-cert",
    )
    for name in ("tls_cert", "tls_key", "tls_client_ca", "token_file"):
        path = getattr(settings, name)
        need(not path or pathlib.Path(path).is_file(), name, path, "a file")
    need(
        settings.insecure or bool(settings.tls_cert) or loopback(settings.host),
        "host",
        settings.host,
        "a loopback address without --tls-cert; --insecure lifts this",
    )
    if settings.metrics != "off":
        address_of(settings.metrics)


def need(holds: bool, name: str, value: Any, limit: str) -> None:
    if not holds:
        raise SettingsError(f"--{name.replace('_', '-')} is {value!r}, it has to be {limit}")


def loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def address_of(text: str) -> tuple[str, int]:
    """HOST:PORT."""
    host, _, port = text.rpartition(":")
    need(bool(host) and port.isdigit() and int(port) <= 65535, "metrics", text, "HOST:PORT or off")
    return host, int(port)


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Raises SettingsError, or SystemExit for --help and unknown flags."""
    parser = argparse.ArgumentParser(prog="python -m bart_server", description="Serves BART over gRPC.")
    kinds = typing.get_type_hints(Settings)
    for field in dataclasses.fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        text = f"{field.metadata['help']} [{default if default != '' else 'none'}]"
        if kinds[field.name] is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif field.name in ("model", "adapter"):
            parser.add_argument(flag, action="append", metavar="NAME=PATH", help=text)
        else:
            parser.add_argument(flag, metavar="X", help=text)
    flags = vars(parser.parse_args(arguments))
    known = {PREFIX + field.name.upper(): field.name for field in dataclasses.fields(Settings)}
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise SettingsError(f"{', '.join(unknown)}: no such setting")
    values: dict[str, Any] = {}
    for variable, name in known.items():
        if flags[name] is not None:
            values[name] = read(name, kinds[name], flags[name])
        elif variable in environment:
            values[name] = read(name, kinds[name], environment[variable])
    return Settings(**values)


def read(name: str, kind: Any, value: Any) -> Any:
    """A flag's or variable's text as the field's type."""
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, list) else value
    try:
        if kind is bool:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[value.lower()]
        if kind == tuple[int, ...]:
            return tuple(int(part) for part in value.split(",") if part.strip())
        if kind == tuple[str, ...]:
            return tuple(part for part in value.split(",") if part)
        return kind(value)
    except (ValueError, KeyError):
        wanted = getattr(kind, "__name__", str(kind)) if kind in (bool, int, float, str) else "a comma-separated list"
        raise SettingsError(f"--{name.replace('_', '-')} is {value!r}, it has to be {wanted}") from None
