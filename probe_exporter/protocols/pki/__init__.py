"""Ask authorities about certificates: revocation lists, OCSP responders, renewal windows."""
