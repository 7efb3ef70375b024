"""streamcls: real-time streaming audio classification."""
