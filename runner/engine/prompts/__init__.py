"""Prompts: token counts by the model's own tokenizers, encoding, and caches of embeddings."""
