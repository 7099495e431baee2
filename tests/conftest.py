import os
from pathlib import Path

# Four CPU devices, so that sharding is tested everywhere; must be said before JAX starts.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(os.environ.get("ADVJAX_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and trained weights; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("real images and trained weights are not here (set ADVJAX_TEST_DATA)")
    return SHARED
