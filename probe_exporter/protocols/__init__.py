"""Protocols that probers speak. Nothing here knows of modules or of the web server."""
