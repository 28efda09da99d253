"""What a prober is made of: its declaration, one run, metrics, deadline, reasons for failure."""
