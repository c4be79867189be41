"""The compliance report: one page on a bundle, for someone who is no engineer.

It takes everything from the bundle, by way of the verifier; it needs neither the run's database nor
a network. A bundle that does not verify gets a report as well, which says so first.
"""

from __future__ import annotations

from common.audit.report.facts import ReportFacts, read_facts
from common.audit.report.output import check_output, write_report
from common.audit.report.page import render_report

__all__ = ["ReportFacts", "check_output", "read_facts", "render_report", "write_report"]
