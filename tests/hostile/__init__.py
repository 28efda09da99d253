"""Hostile peers against every prober: a table of peers, and a harness that measures what each of them costs."""
