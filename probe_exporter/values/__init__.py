"""Values from responses: parts of what a target says, as metrics."""
