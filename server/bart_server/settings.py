"""The server's settings, read from flags and from environment variables BART_SERVER_….

A flag wins over the environment, the environment over the default. All values are checked before a model is loaded, and
the server's first log line has them all.
"""

import argparse
import dataclasses
import ipaddress
import os
import pathlib
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

EMBEDDED = "embedded"  # stands for the path of the checkpoint that the package contains
PREFIX = "BART_SERVER_"  # of the environment variables
# Variables that Kubernetes sets in every container if there is a Service with the name bart-server.
KUBERNETES = re.compile(PREFIX + r"(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
# Settings that must be positive whole numbers, besides all whose names begin with max_.
COUNTS = ("chunk", "workers", "tokenizer_threads", "compile_cache_mb")
MAX_COUNT = 2**31 - 1  # the largest value of a setting that LIMITS does not name
MAX_SECONDS = 1e6  # the largest value of a setting that is not a whole number
LIMITS = {  # the largest value of a setting: more would be a mistake, or more than gRPC can hold
    "chunk": 10_000,
    "workers": 64,
    "tokenizer_threads": 256,
    "max_requests": 100_000,
    "max_readers": 10_000,
    "max_message_bytes": 1 << 30,
    "max_text_bytes": 1 << 30,
    "max_options_bytes": 1 << 30,
}


class SettingsError(ValueError):
    """A setting has a value that is not allowed. The message names the flag, the limit and the value."""


def setting(default: Any, help: str) -> Any:
    """A field of Settings. help: the help text of its flag."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Settings:
    """All settings with their defaults. The second argument of each is the help text of its flag."""

    model: tuple[str, ...] = setting(
        (f"debian-tiny={EMBEDDED}",), "NAME=PATH of a checkpoint folder or hub id; repeatable, the first is the default"
    )
    adapter: tuple[str, ...] = setting(
        (), "NAME=PATH of a LoRA adapter's folder or hub id, merged into the model of that name; repeatable"
    )
    host: str = setting("localhost", "address to listen on; beyond loopback only with TLS or --insecure")
    port: int = setting(50051, "port to listen on; 0 takes a free one")
    metrics: str = setting("localhost:9464", "HOST:PORT of the Prometheus metrics, or off")

    platform: str = setting("cpu", "the device's platform: cpu, tpu or cuda; the server ends if it is not there")
    dtype: str = setting("float32", "float32 (exact to PyTorch), or for speed bfloat16 or int8")
    beams: tuple[int, ...] = setting((1, 4), "beam widths to compile, comma-separated; others are refused")
    sampling_beams: tuple[int, ...] = setting(
        (1,), "beam widths to compile for sampling, for the longest source only; empty: none"
    )
    sources: tuple[int, ...] = setting(
        (), "source lengths to compile, in tokens; empty: the model's longest and a quarter of it"
    )
    target: int = setting(
        0, "most tokens of an answer, start token included; 0: 1.5 times the checkpoint's default, rounded up"
    )
    rows: tuple[int, ...] = setting(
        (1, 8), "row counts to compile, for each device; the last is how many requests a worker runs at once"
    )
    workers: int = setting(
        2, "threads, each with a batch: the device computes one batch while the host prepares another"
    )
    chunk: int = setting(8, "decode steps between checks of the queue")
    compile_cache: str = setting(
        "~/.cache/bart_server",
        "folder of compiled programs, for quick restarts; whoever can write there can run code; or off",
    )
    compile_cache_mb: int = setting(1024, "megabytes of programs in that folder; the least recently used are deleted")
    compile_cache_days: float = setting(30.0, "days after which a program that was not used is deleted")

    max_requests: int = setting(256, "requests in flight, waiting ones included")
    max_cost: int = setting(1_000_000, "estimated padded tokens x beams of the requests in flight")
    max_message_bytes: int = setting(4 << 20, "bytes of one request message")
    max_text_bytes: int = setting(200_000, "bytes of one text in UTF-8")
    max_options_bytes: int = setting(
        1 << 16, "bytes of a request's options, and of its token ids, in protobuf's format"
    )
    max_readers: int = setting(8, "request messages that are received at once; at most half of them from one client")
    max_windows: int = setting(32, "windows that one long text may be split into")
    max_batch_items: int = setting(64, "texts of one BatchSummarize")
    max_labels: int = setting(64, "labels of one ClassifyZeroShot")
    max_label_bytes: int = setting(400, "bytes of one label within its template")
    tokenizer_threads: int = setting(2, "threads that tokenize long texts")

    tls_cert: str = setting("", "PEM file with the server's certificate chain")
    tls_key: str = setting("", "PEM file with the certificate's private key")
    tls_client_ca: str = setting("", "PEM file with the authorities of client certificates, which are then required")
    token_file: str = setting("", "file with one accepted bearer token a line")
    insecure: bool = setting(False, "listen beyond loopback without TLS")

    grace: float = setting(30.0, "seconds that requests in flight get after SIGTERM")
    max_connection_age: float = setting(3600.0, "seconds after which clients are asked to reconnect; 0: never")
    drain_pause: float = setting(
        0.5, "seconds after SIGTERM in which calls are still served, for load balancers; 0: none"
    )
    device_timeout: float = setting(
        300.0, "seconds after which a call of the device counts as hung; the process ends with status 4"
    )
    message_timeout: float = setting(10.0, "seconds in which a request message has to arrive")
    keepalive: float = setting(
        30.0,
        "seconds of silence after which a connection is probed; it is closed if a third of that passes without a reply",
    )
    log_level: str = setting("info", "debug, info, warning or error")
    trace: bool = setting(False, "export OpenTelemetry traces (needs the otel extra)")

    def __post_init__(self) -> None:
        check(self)

    def models(self) -> dict[str, str]:
        """The path of each model, by the model's name."""
        return dict(entry.split("=", 1) for entry in self.model)

    def adapter_of(self, path: str) -> str | None:
        """The path of the adapter that is merged into the checkpoint at `path`."""
        adapters = dict(entry.split("=", 1) for entry in self.adapter)
        for name, model_path in self.models().items():
            if model_path == path and name in adapters:
                return adapters[name]
        return None


def check(settings: Settings) -> None:
    """Raises SettingsError for the first value that is not allowed."""
    check_models(settings)
    check_choices(settings)
    check_shapes(settings)
    check_numbers(settings)
    check_security(settings)


def check_models(settings: Settings) -> None:
    names = []
    for entry in settings.model:
        name, separator, path = entry.partition("=")
        need(bool(name and separator and path), "model", entry, "NAME=PATH")
        names.append(name)
    need(bool(names) and len(set(names)) == len(names), "model", names, "at least one, all of different names")
    adapted = []
    paths = list(settings.models().values())
    for entry in settings.adapter:
        name, separator, path = entry.partition("=")
        need(bool(separator and path) and name in names, "adapter", entry, "NAME=PATH with the name of a model")
        base = settings.models()[name]
        limit = f"of a model that shares {base} with no other: make the adapter's folder a model"
        need(paths.count(base) == 1, "adapter", entry, limit)
        adapted.append(name)
    need(len(set(adapted)) == len(adapted), "adapter", adapted, "at most one for each model")


def check_choices(settings: Settings) -> None:
    need(settings.platform in ("cpu", "tpu", "cuda"), "platform", settings.platform, "cpu, tpu or cuda")
    need(settings.dtype in ("float32", "bfloat16", "int8"), "dtype", settings.dtype, "float32, bfloat16 or int8")
    need(settings.log_level in ("debug", "info", "warning", "error"), "log_level", settings.log_level, "a level")


def check_shapes(settings: Settings) -> None:
    for name in ("beams", "sampling_beams", "rows", "sources"):
        values = getattr(settings, name)
        ascending = values == tuple(sorted(set(values)))
        need(ascending and all(value > 0 for value in values), name, values, "positive and ascending")
    both = (settings.beams, settings.rows)
    need(bool(settings.beams) and bool(settings.rows), "beams and rows", both, "at least one each")


def check_numbers(settings: Settings) -> None:
    need(0 <= settings.port <= 65535, "port", settings.port, "between 0 and 65535")
    need(settings.keepalive >= 1, "keepalive", settings.keepalive, "at least 1")
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        limit = LIMITS.get(field.name, MAX_COUNT)
        if field.name in COUNTS or (field.name.startswith("max_") and field.type is int):
            need(0 < value <= limit, field.name, value, f"positive, at most {limit:,}")
        if field.type is float or field.name == "target":
            need(0 <= value <= MAX_SECONDS, field.name, value, f"between 0 and {MAX_SECONDS:,.0f}")
    for name in ("message_timeout", "device_timeout"):
        need(getattr(settings, name) > 0, name, getattr(settings, name), "more than 0")
    age = settings.max_connection_age
    need(age == 0 or age >= 1, "max_connection_age", age, "0 or at least 1")


def check_security(settings: Settings) -> None:
    if settings.metrics != "off":
        host, _ = address_of(settings.metrics)
        limit = "a loopback address, because metrics have no TLS; --insecure allows others"
        need(settings.insecure or loopback(host), "metrics", settings.metrics, limit)
    certificate = bool(settings.tls_cert)
    need(certificate == bool(settings.tls_key), "tls_cert", settings.tls_cert, "given together with --tls-key")
    with_certificate = certificate or not settings.tls_client_ca
    need(with_certificate, "tls_client_ca", settings.tls_client_ca, "given with --tls-cert")
    for name in ("tls_cert", "tls_key", "tls_client_ca", "token_file"):
        path = getattr(settings, name)
        need(not path or pathlib.Path(path).is_file(), name, path, "a file")
    protected = settings.insecure or certificate or loopback(settings.host)
    need(protected, "host", settings.host, "a loopback address without --tls-cert; --insecure allows others")


def need(holds: bool, name: str, value: Any, limit: str) -> None:
    """Raises SettingsError for the setting `name` if `holds` is false. limit: what its value has to be."""
    if not holds:
        raise SettingsError(f"--{name.replace('_', '-')} is {value!r}, it has to be {limit}")


def loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def address_of(text: str) -> tuple[str, int]:
    """The host and port of HOST:PORT. Raises SettingsError, which names the setting `metrics`."""
    host, _, port = text.rpartition(":")
    need(bool(host) and port.isdigit() and int(port) <= 65535, "metrics", text, "HOST:PORT or off")
    return host, int(port)


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from flags and environment. Raises SettingsError, or SystemExit for --help and unknown flags."""
    kinds = typing.get_type_hints(Settings)
    parser = make_parser(kinds)
    flags = vars(parser.parse_args(arguments))
    known = {PREFIX + field.name.upper(): field.name for field in dataclasses.fields(Settings)}
    environment = {name: value for name, value in environment.items() if not from_kubernetes(name, value)}
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


def from_kubernetes(name: str, value: str) -> bool:
    """Whether Kubernetes has set this environment variable for a Service with the name bart-server."""
    return bool(KUBERNETES.fullmatch(name)) or (name == f"{PREFIX}PORT" and bool(re.match("(tcp|udp|sctp)://", value)))


def make_parser(kinds: Mapping[str, Any]) -> argparse.ArgumentParser:
    """The parser of the command line. kinds: the type of each field. The value of an absent flag is None."""
    parser = argparse.ArgumentParser(prog="python -m bart_server", description="Serves BART over gRPC.")
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
    return parser


# How an error describes a type of settings.
KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple[int, ...]: "whole numbers, separated by commas",
}
TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def read(name: str, kind: Any, value: Any) -> Any:
    """The value of a flag or variable as the field's type. Raises SettingsError."""
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, str):
        return value
    try:
        if kind is bool:
            return TRUTH[value.lower()]
        if kind == tuple[int, ...]:
            return tuple(int(part) for part in value.split(",") if part.strip())
        if kind == tuple[str, ...]:
            return tuple(part for part in value.split(",") if part)
        return kind(value)
    except (ValueError, KeyError):
        raise SettingsError(f"--{name.replace('_', '-')} is {value!r}, it has to be {KINDS[kind]}") from None
