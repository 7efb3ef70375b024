"""Models made elsewhere, as checkpoints of our own: files read, weights converted, downloads."""
