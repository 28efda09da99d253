"""What the command line offers to people: to write a prober, to probe once, to see what is loaded. Serves nothing."""
