import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile(
    "flowtape", max_examples=int(os.environ.get("FLOWTAPE_TEST_EXAMPLES", "40")), deadline=None
)
settings.load_profile("flowtape")
ROOT = Path(__file__).resolve().parents[1]
SLOW = {
    "test_backfill", "test_browsers", "test_capacity", "test_chaos", "test_commands", "test_deploy",
    "test_docs", "test_engines_agree", "test_faults", "test_generated", "test_kill", "test_migration",
    "test_nodes", "test_page", "test_schema_fuzz", "test_sealing", "test_server", "test_shared_store",
}  # fmt: skip
"""Files whose tests start processes or a browser, or run long."""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real samples and the contract, which is not part of the repository."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared")
    return folder
