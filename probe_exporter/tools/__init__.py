"""What the command line offers beside serving: run, list, new."""
