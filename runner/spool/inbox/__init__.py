"""From a file in the inbox to an acknowledged job with its inputs."""
