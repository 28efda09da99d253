"""Base class, rules and field types of settings."""
