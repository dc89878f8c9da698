from pathlib import Path

import pytest
import tiny

from trimask.hub.bundle import Bundle, load_bundle
from trimask.hub.model import Model


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture(scope="session")
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)


@pytest.fixture(scope="session")
def model(bundle: Bundle) -> Model:
    return Model(bundle, device="cpu")
