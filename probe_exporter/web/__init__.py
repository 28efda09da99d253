"""The web server: routes, requests, responses."""
