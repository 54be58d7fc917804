"""`python -m bart_server`: the embedded checkpoint on localhost:50051. `--help` lists the settings."""

import sys
from typing import Any

from bart_server.settings import SettingsError, parse


def main(load: Any = None) -> None:
    """load: what reads the models, see Runtime; tests give another one."""
    try:
        settings = parse(sys.argv[1:])
    except SettingsError as error:
        print(f"bart_server: {error}", file=sys.stderr)
        sys.exit(2)
    from bart_server import process  # after the settings, so that --help loads neither grpc nor a model

    process.run(settings, load)


if __name__ == "__main__":
    main()
