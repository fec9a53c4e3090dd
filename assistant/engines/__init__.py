"""Engines: what turns a prompt into streamed text, one adapter version per answer."""
