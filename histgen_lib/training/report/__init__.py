"""Training HistGen: from bags and reports to a calibrated model folder, and comparing its variants."""
