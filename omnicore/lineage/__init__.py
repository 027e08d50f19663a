"""Where an output comes from: step records, model cards, signatures, releases."""
