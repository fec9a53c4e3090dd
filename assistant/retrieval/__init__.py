"""Retrieval: words and vectors, their fusion, and a reranker where one is named."""
