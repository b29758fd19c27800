"""fluxdrop: drop a YAML file into a folder, get a picture."""
