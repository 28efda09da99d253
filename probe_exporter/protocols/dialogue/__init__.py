"""Dialogues: send and expect (``query_response``), in lines or in messages."""
