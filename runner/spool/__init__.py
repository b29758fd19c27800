"""The spool: from a file in the inbox to an acknowledged job in the outbox, losing nothing."""
