"""The report of a run: from a workdir's records to one HTML page, and to the formats of two benchmarks."""
