"""A run's firings before the run: who reads what from whom, when each runs, and what is unsure."""

from noether.plan.calendar import Entry, calendar
from noether.plan.document import document
from noether.plan.planning import Plan, plan, planned
from noether.plan.svg import svg
from noether.plan.table import table

__all__ = ["Entry", "Plan", "calendar", "document", "plan", "planned", "svg", "table"]
