"""Explain a finished probe to a person: verdict, advice, waterfall, certificates, texts to copy."""
