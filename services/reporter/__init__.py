"""The reporter: bag.ready → report.drafted. Has a report written of a slide, or of all slides of a case."""
