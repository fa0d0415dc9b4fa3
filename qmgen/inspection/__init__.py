"""Looking at a dataset: a report on one page, and a page to browse in."""

from qmgen.inspection.report import write_report as write_report
from qmgen.inspection.run_history import read_run_history as read_run_history
from qmgen.inspection.server import browse as browse
