"""The built-in world: endless seeded scenes, speech and English text, made without a network."""
