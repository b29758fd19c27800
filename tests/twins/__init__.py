"""Random tiny models, one file for each family; `tests/random_twin.py` makes folders of them."""
