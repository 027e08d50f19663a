"""Reading the answer of a reply (extract.py) and judging it (verify.py)."""
