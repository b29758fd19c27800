"""The static pages of the outbox, and the thumbnails that they show."""
