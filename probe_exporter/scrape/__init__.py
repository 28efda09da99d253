"""Read pages of metrics as a scraper reads them, without I/O."""
