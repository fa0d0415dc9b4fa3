"""Looking at a dataset: a report on one page, and a page to browse in."""

from qmgen.inspection.report import write_report as write_report
from qmgen.inspection.server import browse as browse
