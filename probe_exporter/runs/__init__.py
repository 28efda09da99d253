"""Several runs of a prober in one probe: each address of the target's name, and repeated attempts."""
