"""Read, check, reload and print configuration files."""
