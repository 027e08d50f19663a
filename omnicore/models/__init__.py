"""The Qwen2.5-Omni thinker, its processor, and the embedded tiny models of its architecture."""
