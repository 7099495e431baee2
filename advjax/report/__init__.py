"""A run as one HTML page: no server, no resource from elsewhere."""

from advjax.report.page import write_report

__all__ = ["write_report"]
