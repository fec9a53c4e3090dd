"""Answers people: documents, engines, adapters in service, chat, web and the command line."""
