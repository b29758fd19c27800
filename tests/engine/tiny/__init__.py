"""The program that makes the built-in model's weights, and what measures them."""
