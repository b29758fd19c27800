"""One file per kind: how its input images are prepared, and the arguments of its pipelines."""
