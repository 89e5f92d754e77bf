"""What the tests of the panels share: both kinds of widgets, small networks, and no thread that stays."""

import threading

import pytest
import torch

from helpers.features import FeatureConfig, Features
from helpers.widgets.job import Job
from tests.support import tiny
from tests.support.waiting import PATIENCE

MODULES = ("canvas", "live", "upload")  # which take anywidget where it is installed


@pytest.fixture(params=["anywidget", "core"])
def kind(request, monkeypatch):
    """Panels are made of anywidgets, then of core widgets."""
    if request.param == "core":
        for module in MODULES:
            monkeypatch.setattr(f"helpers.widgets.{module}.anywidget", None)
    else:
        pytest.importorskip("anywidget", reason="anywidget is not installed: pip install anywidget")
    return request.param


@pytest.fixture
def core(monkeypatch):
    for module in MODULES:
        monkeypatch.setattr(f"helpers.widgets.{module}.anywidget", None)


@pytest.fixture(scope="session")
def generator():
    return tiny.stylegan2()


@pytest.fixture(scope="session")
def features():
    network, random = Features(FeatureConfig((4, 8, 8), (2, 2, 4))), torch.Generator().manual_seed(1)
    for conv in network.convs:
        torch.nn.init.kaiming_normal_(conv.weight, generator=random)
        torch.nn.init.zeros_(conv.bias)
    return network


@pytest.fixture(scope="session")
def target(generator):
    return generator.synthesize(generator.sample("w", 1, seed=3)).clamp(0, 1)


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    if Job.current is not None:
        Job.current.stop(PATIENCE)
    assert [t.name for t in threading.enumerate() if t.name == "job"] == []


@pytest.fixture
def keep():
    """Panels passed through it are closed at the end."""
    panels = []
    yield lambda panel: panels.append(panel) or panel
    for panel in panels:
        panel.close()
