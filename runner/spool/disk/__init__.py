"""File operations that survive a kill, what differs between operating systems, and locks."""
