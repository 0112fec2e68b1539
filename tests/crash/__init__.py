"""Power cuts, replayed: what the media of a device may hold after one, and what it does then."""
