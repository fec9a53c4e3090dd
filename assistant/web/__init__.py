"""The web pages; the only package that imports gradio."""
