"""Data: readers of standard formats, the built-in world, prepared token shards, mixing and packing."""
