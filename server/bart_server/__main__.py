"""`python -m bart_server`: the embedded checkpoint on localhost:50051. `--help` lists the settings."""

import asyncio
import dataclasses
import gc
import logging
import os
import sys
from collections.abc import Callable

from bart_server.app import App, Exit, Load
from bart_server.services.models import Served
from bart_server.settings import Config, ConfigError, parse
from bart_server.telemetry import logs, tracing
from bart_server.telemetry.metrics import Metrics

log = logging.getLogger("bart_server")


def load(config: Config, metrics: Metrics, stop: Callable[[], bool]) -> list[Served]:
    from bart_server.engine.engine import load_models  # jax is only imported to serve, not for --help

    served = load_models(config, metrics.compiled, stop)
    gc.collect()
    gc.freeze()  # what is left stays: every later collection would stop all threads to look through it
    return served


async def serve(config: Config, load: Load) -> tuple[Exit, bool]:
    app = App(config, load, tracing.otlp() if config.trace else None)
    return await app.run(app.handle_signals), app.busy()


def main(load: Load = load) -> None:
    """load: what reads the models; tests give another one."""
    try:
        config = parse(sys.argv[1:])
        logs.set_up(config.log_level)
        log.info("settings", extra={"settings": dataclasses.asdict(config)})
        status, busy = asyncio.run(serve(config, load))
    except (ConfigError, RuntimeError, OSError) as error:  # RuntimeError: grpc cannot bind the port
        print(f"bart_server: {error}", file=sys.stderr)
        sys.exit(Exit.USAGE)
    logging.shutdown()
    if busy:  # a compilation or a device call cannot be interrupted; nothing waits for it
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
