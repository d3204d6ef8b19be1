"""What a decision leaves: decide.json, report.html, and the table in print.

write(record, workdir)
"""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from ftjax.core import files
from ftjax.decide import arm_table, decision_page

JSON, PAGE = "decide.json", "report.html"


def write(record: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Write the record and its page, and print the verdict and a table for every need."""
    files.write_json(pathlib.Path(workdir) / JSON, record)
    page = files.write_text(pathlib.Path(workdir) / PAGE, decision_page.page(record, workdir.name))
    sys.stdout.write(f"\n{arm_table.text(record)}\n\nreport: {page}\n")
