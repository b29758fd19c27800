"""The real pipelines on the shipped weights, loaded once for all tests of their meaning."""

from collections.abc import Iterator

import pytest
import torch

from tests.engine.tiny.evaluate import Pipelines


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipelines]:
    """Loads each pipeline when first used; one thread, so that busy machines do not slow it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Pipelines(tmp_path_factory.mktemp("data"))
    torch.set_num_threads(threads)
