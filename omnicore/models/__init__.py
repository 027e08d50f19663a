"""Models: the Qwen2.5-Omni thinker, its processor, and the embedded tiny one of the same
architecture."""
