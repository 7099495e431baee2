"""advjax: feature adversaries in JAX, batched (Sabour et al., ICLR 2016).

The public names stand in `__init__.pyi`. Everything else may change.
"""

import lazy_loader

__version__ = "0.1.0"

# JAX takes a second to import, and the command line's help does without it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
