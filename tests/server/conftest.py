import pytest
from bart_server.engine.cache import ProgramCache

from tests.server.harness import start, stubs  # noqa: F401  fixtures


@pytest.fixture(scope="session")
def programs(request, tmp_path_factory):
    """A compile cache that later runs of the tests use too. A program's name has all that it depends on."""
    if not hasattr(request.config, "cache"):  # pytest -p no:cacheprovider
        return ProgramCache(tmp_path_factory.mktemp("programs"), 2**30, 30)
    cache = ProgramCache(request.config.cache.mkdir("programs"), 2**28, 7)
    cache.prune()
    return cache
