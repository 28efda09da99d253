"""Load probers, and find out what they can measure."""
