"""Origin of outputs: step records, code versions, model cards, signatures, releases, traces."""
