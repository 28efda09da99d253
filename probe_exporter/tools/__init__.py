"""Subcommands for people: run, list, new."""
