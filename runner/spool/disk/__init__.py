"""File operations that survive a kill, faults of single files, platform differences, locks."""
