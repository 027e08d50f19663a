"""The report: evidence read and checked, plots, sentences, and the one page that shows them."""
