"""One file per kind: what a job of that kind needs, as pure functions over values."""
