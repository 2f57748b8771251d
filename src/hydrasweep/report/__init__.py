"""The report of a sweep: one HTML file that opens anywhere, offline."""

from hydrasweep.report.page import compare, write

__all__ = ["compare", "write"]
