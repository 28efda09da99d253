"""Dialogues with a peer (``query_response``): expect and send, in lines or in messages."""
