"""Where slots run: in processes of this machine, and several executors as one."""
