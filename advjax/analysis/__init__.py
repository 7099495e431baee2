"""All the figures of Sabour et al., section 4, of a set of results in one call, as a table."""

from advjax.analysis.analysis import analyse
from advjax.analysis.from_files import Adversarial
from advjax.analysis.protocol import Protocol
from advjax.analysis.summary import Analysis

__all__ = ["Adversarial", "Analysis", "Protocol", "analyse"]
