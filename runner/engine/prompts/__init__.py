"""Prompts: counted by the model's own tokenizers, encoded once, and kept."""
