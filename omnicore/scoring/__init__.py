"""Extract the answer of a reply (`extract`), judge it (`verify`), and estimate rates (`stats`)."""
