"""Declaration of probers, and one run of a prober: metrics, log, deadline, reasons for failure."""
