from tests.server.harness import start, stubs  # noqa: F401  fixtures
