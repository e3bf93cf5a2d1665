"""
The content enricher: what a record names, as ServiceNow's own ids.

A name is data from outside, so nothing is taken on trust: it is asked for in a way that cannot be read otherwise
(`lookups`), each row that comes back is compared with what was asked (`matching`), and an answer that looks as if nobody
was there is held against the instance itself (`trust`). Not found, two found, cannot be asked: unknown. What becomes of
that is the sink's business.

Source: guarantee.md 2.3 (2); servicenow.md section 3.
"""

from poller.enrich.lookups import Lookups
from poller.enrich.matching import Found, Question

__all__ = ["Found", "Lookups", "Question"]
