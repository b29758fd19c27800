"""The spool: from a file in the inbox to an answered job in the outbox, losing nothing."""
