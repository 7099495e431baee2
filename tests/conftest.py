import functools
import os
import shutil
import tempfile
from pathlib import Path

# Four CPU devices, so that sharding is tested everywhere; must be said before JAX starts.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

import jax
import pytest

import advjax

advjax.keep_freed_memory()  # as on the command line
jax.config.update("jax_numpy_rank_promotion", "raise")

PROGRAMS = "ADVJAX_TEST_PROGRAMS"  # the variable by which xdist's workers know the folder


def pytest_configure(config):
    """Compile a program once in a session, though many tests and all workers need it.

    The processes that tests start compile their own: one that is killed may leave half a file.
    """
    if PROGRAMS not in os.environ:
        os.environ[PROGRAMS] = tempfile.mkdtemp(prefix="advjax-programs-")
        config.add_cleanup(functools.partial(shutil.rmtree, os.environ[PROGRAMS]))
    jax.config.update("jax_compilation_cache_dir", os.environ[PROGRAMS])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


SHARED = Path(os.environ.get("ADVJAX_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and trained weights; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("real images and trained weights are not here (set ADVJAX_TEST_DATA)")
    return SHARED


def _quickly():
    """Compile without most of XLA's optimisations, which small programs do not repay.

    For tests of what holds with and without them. Later tests get programs of their own.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


compiled_quickly = pytest.fixture(_quickly, name="compiled_quickly")
module_compiled_quickly = pytest.fixture(_quickly, scope="module", name="module_compiled_quickly")
