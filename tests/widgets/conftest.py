"""What the tests of the panels share: small networks, and no run that stays."""

import pytest

from helpers.widgets.job import Job
from tests.support import tiny
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="session")
def generator():
    return tiny.stylegan2()


@pytest.fixture(scope="session")
def features():
    return tiny.vgg()


@pytest.fixture(scope="session")
def target(generator):
    return generator.synthesize(generator.sample("w", 1, seed=3)).clamp(0, 1)


@pytest.fixture(autouse=True)
def no_run_stays():
    yield
    assert Job.current is None or Job.current.stop(PATIENCE)
