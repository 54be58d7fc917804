"""The command `python -m bart_server`. Without flags it serves the embedded checkpoint on localhost:50051."""

import sys
from typing import Any

from bart_server.settings import SettingsError, parse

# Top-level packages that `pip install bart-oneliner[server]` adds.
EXTRA = ("bart_proto", "google", "grpc", "grpc_health", "grpc_reflection", "prometheus_client")


def main(load: Any = None) -> None:
    """Parses the flags and serves until a signal.

    load: reads a model, as for Runtime; tests pass an engine of their own.
    """
    try:
        settings = parse(sys.argv[1:])
    except SettingsError as error:
        print(f"bart_server: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        from bart_server import (
            process,
        )  # imported after the settings are read, so that --help imports neither grpc nor jax
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        print(f"bart_server: {error.name} is missing: pip install 'bart-oneliner[server]'", file=sys.stderr)
        sys.exit(2)
    process.run(settings, load)


if __name__ == "__main__":
    main()
