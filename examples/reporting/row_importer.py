"""Tells the fabric what went wrong in a program that is no agent, and how much it did."""

import logging

from tandem import ErrorReporter, TandemHandler

reporter = ErrorReporter("row-importer")
logging.basicConfig()
logging.getLogger().addHandler(TandemHandler(reporter))
log = logging.getLogger("importer")

rows = ["1", "2", "three"]
for row in rows:
    try:
        int(row)
    except ValueError:
        log.exception("row %r cannot be read", row)
reporter.metric("rows_seen", len(rows), {"table": "people"})
