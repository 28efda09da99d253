"""Subcommands for people: run, modules, probers, new, prometheus-config, doctor."""
