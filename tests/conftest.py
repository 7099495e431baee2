import functools
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

# Must be said before JAX starts: four CPU devices, so that sharding is tested everywhere, and,
# while jaxlib has a choice, the way of making kernels that compiles in two thirds of the time.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=4"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10.")
)

import jax
import pytest

import advjax

advjax.keep_freed_memory()  # as on the command line
jax.config.update("jax_numpy_rank_promotion", "raise")

PROGRAMS = "ADVJAX_TEST_PROGRAMS"  # the variable by which xdist's workers know the folder


def pytest_configure(config):
    """Compile a program once in a session, for all workers, and without most optimisations.

    The processes that tests start compile their own, with all optimisations: one that is killed may
    leave half a file.
    """
    if PROGRAMS not in os.environ:
        os.environ[PROGRAMS] = tempfile.mkdtemp(prefix="advjax-programs-")
        config.add_cleanup(functools.partial(shutil.rmtree, os.environ[PROGRAMS]))
    jax.config.update("jax_compilation_cache_dir", os.environ[PROGRAMS])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
        jax.config.update("jax_disable_most_optimizations", True)


SHARED = Path(os.environ.get("ADVJAX_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and trained weights; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("real images and trained weights are not here (set ADVJAX_TEST_DATA)")
    return SHARED


def _optimised():
    """Compile with all optimisations, as users do.

    For tests of bits, of the engine and of solvers, and where they save more time than they take.
    """
    quickly = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", quickly)
    jax.clear_caches()


optimised = pytest.fixture(_optimised, name="optimised")
module_optimised = pytest.fixture(_optimised, scope="module", name="module_optimised")
