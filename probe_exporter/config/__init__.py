"""Configuration files, from text to one frozen `Config`."""
