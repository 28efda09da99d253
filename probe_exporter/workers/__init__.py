"""Worker processes and their supervisor (``--workers``)."""
