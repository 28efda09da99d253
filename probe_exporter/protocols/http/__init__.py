"""HTTP/1, HTTP/2, HTTP/3 and WebSocket as a client."""
