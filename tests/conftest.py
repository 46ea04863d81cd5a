"""Every test runs with shapes checked: jaxtyping's annotations are enforced by beartype, in tests alone."""

from __future__ import annotations

import os
from pathlib import Path

from jaxtyping import install_import_hook

install_import_hook("bifocals.structures", "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; a test that asks for it skips, by name, where it is absent."""
    folder = Path(os.environ.get("BIFOCALS_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (BIFOCALS_SHARED)")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
