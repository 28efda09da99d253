"""Load probers, and list their metrics."""
